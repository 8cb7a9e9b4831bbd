// The Lasso by an active set: atoms are added one at a time, that with the largest correlation first, and the quadratic
// problem of the atoms in the set is solved exactly, by a Cholesky factor that grows and shrinks with it. An atom
// leaves when its code would change sign. Sources: Osborne, Presnell and Turlach 2000; Lee, Battle, Raina and Ng 2007,
// "Efficient sparse coding algorithms" (feature-sign search).
#include "lasso.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"

namespace fastvi {
namespace {

constexpr std::int64_t chunk_rows = 64;

// The lower triangle of the Gram matrix's factor on the active set; row i begins at i (i + 1) / 2.
class Factor {
 public:
  explicit Factor(std::int64_t capacity)
      : values_(static_cast<std::size_t>(capacity * (capacity + 1) / 2)), work_(static_cast<std::size_t>(capacity)) {}

  std::int64_t size() const { return size_; }
  void clear() { size_ = 0; }

  // Takes an atom in with its inner products with those of the set, and with itself. False where it depends on them.
  bool append(const double* products, double square) {
    double* const added = row(size_);
    double rest = square;
    for (std::int64_t i = 0; i < size_; ++i) {
      const double value = (products[i] - dot(row(i), added, i)) / row(i)[i];
      added[i] = value;
      rest -= value * value;
    }
    if (!(rest > 1e-10 * square)) return false;
    added[size_] = std::sqrt(rest);
    ++size_;
    return true;
  }

  // Takes atom `k` out: its row goes, and rotations make the rows behind it triangular again.
  void remove(std::int64_t k) {
    for (std::int64_t i = k; i + 1 < size_; ++i) {
      const double* const from = row(i + 1);
      double* const to = row(i);
      // Row i + 1 has i + 2 entries, of which the last is to vanish by a rotation of columns i and i + 1.
      std::copy_n(from, i + 1, to);
      work_[static_cast<std::size_t>(i)] = from[i + 1];
    }
    --size_;
    for (std::int64_t column = k; column < size_; ++column) {
      // Columns `column` and `column + 1` of the rows from `column` on; the latter stand in the rows themselves, but
      // for the last entry of each row, which is in `work_`.
      double* const own = row(column);
      const double a = own[column], b = work_[static_cast<std::size_t>(column)];
      const double length = std::hypot(a, b), cosine = a / length, sine = b / length;
      own[column] = length;
      for (std::int64_t i = column + 1; i < size_; ++i) {
        double* const other = row(i);
        const double first = other[column], second = other[column + 1];
        other[column] = cosine * first + sine * second;
        other[column + 1] = cosine * second - sine * first;
      }
    }
  }

  // Solves (L L') v = v.
  void solve(double* v) const {
    for (std::int64_t i = 0; i < size_; ++i) v[i] = (v[i] - dot(row(i), v, i)) / row(i)[i];
    for (std::int64_t i = size_ - 1; i >= 0; --i) {
      const double* const of_row = row(i);
      v[i] /= of_row[i];
      for (std::int64_t j = 0; j < i; ++j) v[j] -= of_row[j] * v[i];
    }
  }

 private:
  static double dot(const double* a, const double* b, std::int64_t count) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
    return sum;
  }
  double* row(std::int64_t i) { return values_.data() + i * (i + 1) / 2; }
  const double* row(std::int64_t i) const { return values_.data() + i * (i + 1) / 2; }

  std::int64_t size_ = 0;
  std::vector<double> values_, work_;
};

// One row after the other, in memory that they share.
template <class T>
class ActiveSet {
 public:
  explicit ActiveSet(const LassoRows<T>& problem)
      : problem_(problem),
        capacity_(std::min(problem.atoms, problem.rank) + 1),
        factor_(capacity_),
        gradient_(static_cast<std::size_t>(problem.atoms)),
        codes_(static_cast<std::size_t>(capacity_)),
        target_(codes_),
        products_(codes_),
        signs_(codes_) {
    active_.reserve(static_cast<std::size_t>(capacity_));
  }

  void solve(std::int64_t row) {
    correlations_ = problem_.correlations + row * problem_.atoms;
    T* const out = problem_.codes + row * problem_.atoms;
    double largest = 0;
    bool is_finite = true;
    for (std::int64_t j = 0; j < problem_.atoms; ++j) {
      const double size = std::fabs(static_cast<double>(correlations_[j]));
      is_finite = is_finite && size <= std::numeric_limits<T>::max();
      largest = size > largest ? size : largest;
    }
    problem_.steps[row] = 0;
    problem_.converged[row] = 0;
    if (!is_finite) {  // no minimum, or none that numbers can tell
      std::fill_n(out, problem_.atoms, std::numeric_limits<T>::quiet_NaN());
      return;
    }
    tolerance_ = 64.0 * std::numeric_limits<T>::epsilon() * std::max(largest, problem_.threshold);
    start_from(out);
    bool done = active_.empty() || minimise();
    std::int64_t steps = 0;
    while (done) {
      const std::int64_t atom = most_wrong();
      if (atom < 0) break;
      if (steps == problem_.max_steps) done = false;
      if (!done) break;
      ++steps;
      done = add(atom);
    }
    problem_.steps[row] = steps;
    problem_.converged[row] = done ? 1 : 0;
    std::fill_n(out, problem_.atoms, T(0));
    for (std::size_t i = 0; i < active_.size(); ++i) out[active_[i]] = static_cast<T>(codes_[i]);
  }

 private:
  const T* gram_of(std::int64_t atom) const { return problem_.gram + atom * problem_.atoms; }

  void read_products(std::int64_t atom) {
    const T* const row = gram_of(atom);
    for (std::size_t i = 0; i < active_.size(); ++i) products_[i] = static_cast<double>(row[active_[i]]);
  }

  void start_from(const T* codes) {
    active_.clear();
    factor_.clear();
    closed_.clear();
    for (std::int64_t j = 0; j < problem_.atoms; ++j) {
      if (codes[j] == T(0) || codes[j] != codes[j] || factor_.size() + 1 >= capacity_) continue;
      read_products(j);
      if (factor_.append(products_.data(), static_cast<double>(gram_of(j)[j]))) {
        take_in(j, static_cast<double>(codes[j]), codes[j] > T(0) ? 1.0 : -1.0);
      }
    }
  }

  void take_in(std::int64_t atom, double code, double sign) {
    codes_[active_.size()] = code;
    signs_[active_.size()] = sign;
    active_.push_back(atom);
  }

  void take_out(std::size_t i) {
    factor_.remove(static_cast<std::int64_t>(i));
    drop(i);
  }

  void drop(std::size_t i) {
    const std::size_t last = active_.size() - 1;
    std::copy(codes_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
              codes_.begin() + static_cast<std::ptrdiff_t>(last) + 1, codes_.begin() + static_cast<std::ptrdiff_t>(i));
    std::copy(signs_.begin() + static_cast<std::ptrdiff_t>(i) + 1,
              signs_.begin() + static_cast<std::ptrdiff_t>(last) + 1, signs_.begin() + static_cast<std::ptrdiff_t>(i));
    active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  // The atom outside the set whose correlation with what is left of x is beyond the threshold most; -1: none.
  std::int64_t most_wrong() {
    T* const gradient = gradient_.data();
    std::copy_n(correlations_, problem_.atoms, gradient);
    std::size_t i = 0;
    for (; i + 4 <= active_.size(); i += 4) {
      const T *const first = gram_of(active_[i]), *const second = gram_of(active_[i + 1]);
      const T *const third = gram_of(active_[i + 2]), *const fourth = gram_of(active_[i + 3]);
      const T a = static_cast<T>(codes_[i]), b = static_cast<T>(codes_[i + 1]);
      const T c = static_cast<T>(codes_[i + 2]), d = static_cast<T>(codes_[i + 3]);
#pragma omp simd
      for (std::int64_t j = 0; j < problem_.atoms; ++j) {
        gradient[j] -= a * first[j] + b * second[j] + (c * third[j] + d * fourth[j]);
      }
    }
    for (; i < active_.size(); ++i) {
      const T* const row = gram_of(active_[i]);
      const T code = static_cast<T>(codes_[i]);
#pragma omp simd
      for (std::int64_t j = 0; j < problem_.atoms; ++j) gradient[j] -= code * row[j];
    }
    for (const std::int64_t atom : active_) gradient[atom] = T(0);
    for (const std::int64_t atom : closed_) gradient[atom] = T(0);
    T largest = T(0);
#pragma omp simd reduction(max : largest)
    for (std::int64_t j = 0; j < problem_.atoms; ++j) {
      const T size = std::fabs(gradient[j]);
      largest = size > largest ? size : largest;
    }
    if (!(static_cast<double>(largest) > problem_.threshold + tolerance_)) return -1;
    return std::find_if(gradient, gradient + problem_.atoms, [&](T value) { return std::fabs(value) == largest; }) -
           gradient;
  }

  // Takes the atom in and goes to the minimum over the set. False where numbers do not suffice for it.
  bool add(std::int64_t atom) {
    const double sign = gradient_[static_cast<std::size_t>(atom)] > T(0) ? 1.0 : -1.0;
    const double square = static_cast<double>(gram_of(atom)[atom]);
    read_products(atom);
    double code = 0;
    while (factor_.size() + 1 >= capacity_ || !factor_.append(products_.data(), square)) {
      // The atom is a combination of those in the set: along it the objective falls until one of them vanishes.
      for (std::size_t i = 0; i < active_.size(); ++i) target_[i] = -sign * products_[i];
      factor_.solve(target_.data());
      double reach = std::numeric_limits<double>::infinity();
      std::size_t first = active_.size();
      for (std::size_t i = 0; i < active_.size(); ++i) {
        const double length = -codes_[i] / target_[i];
        if (signs_[i] * target_[i] < 0 && length < reach) {
          reach = length;
          first = i;
        }
      }
      if (first == active_.size()) {
        closed_.push_back(atom);  // nothing in its way: its correlation is rounding alone
        return code == 0 || minimise();
      }
      for (std::size_t i = 0; i < active_.size(); ++i) go_to(i, codes_[i] + reach * target_[i]);
      code += reach * sign;
      take_out(first);
      read_products(atom);
    }
    take_in(atom, code, sign);
    const bool done = minimise();
    if (active_.empty() || active_.back() != atom) {
      closed_.push_back(atom);  // it came and went: what was wrong is rounding
    } else {
      closed_.clear();
    }
    return done;
  }

  // Goes to the minimum over the codes of the set, whose signs stay; a code that would change sign leaves the set.
  bool minimise() {
    while (!active_.empty()) {
      const std::size_t count = active_.size();
      for (std::size_t i = 0; i < count; ++i) {
        target_[i] = static_cast<double>(correlations_[active_[i]]) - problem_.threshold * signs_[i];
      }
      factor_.solve(target_.data());
      double reach = 1;
      std::size_t first = count;
      for (std::size_t i = 0; i < count; ++i) {
        if (!(signs_[i] * target_[i] > 0)) {
          const double way = codes_[i] - target_[i];
          const double length = way != 0 ? codes_[i] / way : 0.0;
          if (!(length > reach)) {  // also at 1: a target that rounding has put on the other side of 0
            reach = length;
            first = i;
          }
        }
      }
      if (first == count) {
        std::copy_n(target_.begin(), count, codes_.begin());
        return true;
      }
      if (!(reach >= 0)) return false;
      for (std::size_t i = 0; i < count; ++i) go_to(i, codes_[i] + reach * (target_[i] - codes_[i]));
      take_out(first);
    }
    return true;
  }

  // A code that vanishes together with another one must not come out on the other side of 0 by rounding.
  void go_to(std::size_t i, double code) { codes_[i] = signs_[i] * code > 0 ? code : 0.0; }

  const LassoRows<T>& problem_;
  const std::int64_t capacity_;
  const T* correlations_ = nullptr;
  double tolerance_ = 0;
  Factor factor_;
  std::vector<std::int64_t> active_;
  std::vector<T> gradient_;
  std::vector<std::int64_t> closed_;  // atoms that are not tried again before another one comes in
  std::vector<double> codes_, target_, products_, signs_;
};

}  // namespace

template <class T>
void SparseCodingKernels<T>::lasso(const LassoRows<T>& problem) {
  const std::int64_t chunks = ceil_divide(problem.rows, chunk_rows);
  parallel_for(chunks, problem.rows * problem.atoms * 20, [&](std::int64_t chunk) {
    ActiveSet<T> set(problem);
    const std::int64_t end = std::min(problem.rows, (chunk + 1) * chunk_rows);
    for (std::int64_t row = chunk * chunk_rows; row < end; ++row) set.solve(row);
  });
}

template <class T>
void SparseCodingKernels<T>::step(const ProximalStep<T>& step) {
  const std::int64_t atoms = step.atoms;
  parallel_for(step.rows, step.rows * atoms / 2, [&](std::int64_t row) {
    const T* const direction = step.direction + row * atoms;
    T* const codes = step.codes + row * atoms;
    T* const extrapolated = step.momentum == nullptr ? nullptr : step.extrapolated + row * atoms;
    const T length = step.step[row], threshold = step.threshold[row];
    const auto shrunk = [&](T value) {
      const T rest = std::fabs(value) - threshold;
      return rest > T(0) ? std::copysign(rest, value) : value - value;  // NaN and infinity stay
    };
    if (step.momentum == nullptr) {
#pragma omp simd
      for (std::int64_t j = 0; j < atoms; ++j) codes[j] = shrunk(codes[j] + length * direction[j]);
      return;
    }
    // The new codes stand in `extrapolated` on the way, so that one pass knows whether the momentum goes uphill.
    T uphill = T(0);
#pragma omp simd reduction(+ : uphill)
    for (std::int64_t j = 0; j < atoms; ++j) {
      const T from = extrapolated[j], to = shrunk(from + length * direction[j]);
      uphill += (from - to) * (to - codes[j]);
      extrapolated[j] = to;
    }
    T& t = step.momentum[row];
    const T before = step.restarts && uphill > T(0) ? T(1) : t;
    const T after = (T(1) + std::sqrt(T(1) + T(4) * before * before)) / T(2);
    const T factor = (before - T(1)) / after;
    t = after;
#pragma omp simd
    for (std::int64_t j = 0; j < atoms; ++j) {
      const T to = extrapolated[j];
      extrapolated[j] = to + factor * (to - codes[j]);
      codes[j] = to;
    }
  });
}

template struct SparseCodingKernels<float>;
template struct SparseCodingKernels<double>;

}  // namespace fastvi
