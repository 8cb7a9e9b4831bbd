// A pass over the rows of a mixture: log densities as tiles of rows by components, from which the same block makes
// responsibilities. Rows are taken in chunks whose responsibilities stay in the device's cache until they are summed.
#include <algorithm>

#include "../formulas/log.h"
#include "mixture.cuh"

namespace fastvi {
namespace {

// The threads that share rows in a tile of log densities.
using HalfWarp = Group<pairs_of_side>;

// See MixtureKind; a null scale stands for ones.
template <class T>
struct MixtureModel {
  std::int64_t components;
  const T *offset, *location, *scale;
};

// A tile of rows by components: sums of products, or of squared differences.
template <class T, MixtureKind kind>
FASTVI_DEVICE void add_columns(const ShiftedRows<T>& rows, const MixtureModel<T>& model, std::int64_t first_row,
                               std::int64_t first_component, Tile<T>& sums) {
  FASTVI_SHARED(Quad<T>, y, depth * quad_stride);
  FASTVI_SHARED(Pair<T>, locations, depth * pair_stride);
  FASTVI_SHARED(Pair<T>, scales, depth * pair_stride);
  for (std::int64_t d = 0; d < rows.columns; d += depth) {
    const auto of = [&](const T* from, T otherwise) {
      return [=, &rows, &model](int i, int place) {
        const bool inside = first_component + i < model.components && d + place < rows.columns;
        if (!inside) return T(0);
        return from == nullptr ? otherwise : from[(first_component + i) * rows.columns + d + place];
      };
    };
    rows.load(first_row, d, y);
    fill<false>(locations, of(model.location, T(0)));
    if constexpr (kind == MixtureKind::diagonal) fill<false>(scales, of(model.scale, T(1)));
    __syncthreads();
    if constexpr (kind == MixtureKind::linear) {
      add_products(y, locations, sums);
    } else {
#pragma unroll 4
      for (int place = 0; place < depth; ++place) {
        const Quad<T> quad = y[place * quad_stride + own_quad()];
        const Pair<T> location = locations[place * pair_stride + own_pair()];
        const Pair<T> scale = scales[place * pair_stride + own_pair()];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const T difference = scale.value[j] * quad.value[i] - location.value[j];
            sums.value[i][j] += difference * difference;
          }
        }
      }
    }
    __syncthreads();
  }
}

// A tile of rows by columns e of y U, U upper triangular.
template <class T>
FASTVI_DEVICE void whiten(const ShiftedRows<T>& rows, const T* upper, std::int64_t first_row, std::int64_t e,
                          Tile<T>& sums) {
  FASTVI_SHARED(Quad<T>, y, depth * quad_stride);
  FASTVI_SHARED(Pair<T>, factors, depth * pair_stride);
  const std::int64_t columns = rows.columns, end = e + short_side < columns ? e + short_side : columns;
  for (std::int64_t d = 0; d < end; d += depth) {
    rows.load(first_row, d, y);
    fill<true>(factors, [&](int i, int place) {
      return d + place < end && e + i < end ? upper[(d + place) * columns + e + i] : T(0);
    });
    __syncthreads();
    add_products(y, factors, sums);
    __syncthreads();
  }
}

// A tile of rows by components of log densities.
template <class T, MixtureKind kind>
FASTVI_DEVICE void find_densities(const ShiftedRows<T>& rows, const MixtureModel<T>& model, std::int64_t first_row,
                                  std::int64_t first_component, Tile<T>& found) {
  if constexpr (kind == MixtureKind::full) {
    const std::int64_t columns = rows.columns, rest = model.components - first_component;
    for (int own = 0; own < (rest < short_side ? rest : short_side); ++own) {
      const std::int64_t k = first_component + own;
      T squares[4] = {};
      for (std::int64_t e = 0; e < columns; e += short_side) {
        Tile<T> white;
        whiten(rows, model.scale + k * columns * columns, first_row, e, white);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const std::int64_t column = e + 2 * own_pair() + j;
          const T location = column < columns ? model.location[k * columns + column] : T(0);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const T difference = white.value[i][j] - location;
            squares[i] += difference * difference;
          }
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const T density = model.offset[k] - T(0.5) * HalfWarp::sum(squares[i]);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (own == 2 * own_pair() + j) found.value[i][j] = density;
        }
      }
    }
  } else {
    add_columns<T, kind>(rows, model, first_row, first_component, found);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const std::int64_t k = first_component + 2 * own_pair() + j;
      const T offset = k < model.components ? model.offset[k] : T(0);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const T sum = found.value[i][j];
        found.value[i][j] = kind == MixtureKind::linear ? offset + sum : offset - T(0.5) * sum;
      }
    }
  }
}

// Where a chunk's results go: (rows, components), (rows, components), (rows,), and for each tile of rows the sum of
// weight times log-likelihood. Without `responsibilities` nothing but log densities is wanted.
template <class T>
struct RowResults {
  T *log_densities, *responsibilities, *log_likelihood, *totals;
  const T* weights;
};

// Calls visit(place of a row's component in a row) for those of this thread.
template <class Visit>
FASTVI_DEVICE void for_own_components(std::int64_t components, const Visit& visit) {
  for (std::int64_t k = 2 * own_pair(); k < components; k += short_side) {
    visit(k);
    if (k + 1 < components) visit(k + 1);
  }
}

// Turns log densities into responsibilities; returns weight times log-likelihood for the first of the row's threads.
template <class T>
FASTVI_DEVICE T normalize(const RowResults<T>& out, std::int64_t components, std::int64_t r, bool inside, T largest) {
  T* const own = out.responsibilities + r * components;
  const std::int64_t count = inside ? components : 0;
  largest = HalfWarp::maximum(largest);
  if (largest == -infinity<T>) largest = T(0);
  T sum = T(0);
  for_own_components(count, [&](std::int64_t k) {
    const T share = exp_nonpositive(own[k] - largest);
    own[k] = share;
    sum += share;
  });
  sum = HalfWarp::sum(sum);
  const T inverse = sum == T(0) ? T(0) : T(1) / sum;
  for_own_components(count, [&](std::int64_t k) { own[k] *= inverse; });
  if (!inside || own_pair() != 0) return T(0);
  const T log_likelihood = largest + log(sum), weight = out.weights == nullptr ? T(1) : out.weights[r];
  if (out.log_likelihood != nullptr) out.log_likelihood[r] = log_likelihood;
  return weight == T(0) ? T(0) : weight * log_likelihood;
}

template <class T, MixtureKind kind>
__global__ void __launch_bounds__(block_threads)
    responsibilities_kernel(std::int64_t tiles, ShiftedRows<T> rows, MixtureModel<T> model, RowResults<T> out) {
  for (std::int64_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const std::int64_t first_row = tile * long_side, own_row = first_row + 4 * own_quad();
    T largest[4] = {-infinity<T>, -infinity<T>, -infinity<T>, -infinity<T>};
    for (std::int64_t first = 0; first < model.components; first += short_side) {
      Tile<T> found;
      find_densities<T, kind>(rows, model, first_row, first, found);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const std::int64_t k = first + 2 * own_pair() + j, place = (own_row + i) * model.components + k;
          if (own_row + i >= rows.count || k >= model.components) continue;
          const T density = found.value[i][j];
          if (out.log_densities != nullptr) out.log_densities[place] = density;
          if (out.responsibilities != nullptr) out.responsibilities[place] = density;
          largest[i] = density > largest[i] ? density : largest[i];
        }
      }
    }
    if (out.responsibilities == nullptr) continue;
    T total = T(0);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      total += normalize(out, model.components, own_row + i, own_row + i < rows.count, largest[i]);
    }
    total = BlockGroup::sum(total);
    if (threadIdx.x == 0) out.totals[tile] = total;
  }
}

// out = y U, contiguous (rows, columns).
template <class T>
__global__ void __launch_bounds__(block_threads)
    whitening_kernel(std::int64_t items, std::int64_t strips, ShiftedRows<T> rows, const T* upper, T* out) {
  for (std::int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Place place(item, strips);
    const std::int64_t first_row = place.outer * long_side, first = place.inner * short_side;
    Tile<T> found;
    whiten(rows, upper, first_row, first, found);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const std::int64_t r = first_row + 4 * own_quad() + i, e = first + 2 * own_pair() + j;
        if (r < rows.count && e < rows.columns) out[r * rows.columns + e] = found.value[i][j];
      }
    }
  }
}

template <class Out>
struct Total {
  Out* total;

  static FASTVI_DEVICE bool wants(std::int64_t) { return true; }
  FASTVI_DEVICE void add(std::int64_t, Out value) const { *total += value; }
};

// One chunk after the other through the same scratch memory.
template <class T>
class Passing {
 public:
  explicit Passing(const MixturePass<T>& pass)
      : pass_(pass),
        needs_densities_(pass.given == nullptr || pass.log_densities != nullptr),
        is_tied_(needs_densities_ && pass.kind == MixtureKind::tied) {
    const std::int64_t numbers = pass.components + (is_tied_ ? pass.columns : 0);
    const std::int64_t most = std::max<std::int64_t>(FASTVI_CACHED_NUMBERS / numbers / long_side, 1) * long_side;
    chunk_ = std::min(pass.rows, most);
    if (is_tied_) whitened_ = scratch<T>(chunk_ * pass.columns);
    if (pass.given == nullptr) totals_ = scratch<T>(ceil_divide(chunk_, long_side));
    if (pass.given == nullptr && pass.responsibilities == nullptr) own_ = scratch<T>(chunk_ * pass.components);
    if (pass.moments != MixtureMoments::none) partial_ = scratch<T>(partial_size(pass, chunk_));
  }

  void run() {
    for (std::int64_t start = 0; start < pass_.rows; start += chunk_) {
      const std::int64_t count = std::min(chunk_, pass_.rows - start);
      const ShiftedRows<T> rows{
          pass_.x + start * pass_.row_stride, pass_.row_stride, pass_.column_stride, pass_.shift, count, pass_.columns};
      if (needs_densities_) find_responsibilities(start, rows);
      if (pass_.moments == MixtureMoments::none) continue;
      const T* const found = pass_.given == nullptr ? shares(start) : pass_.given + start * pass_.components;
      add_sums(pass_, rows, Shares<T>{found, from(pass_.weights, start), pass_.components}, partial_);
    }
  }

 private:
  static T* from(T* data, std::int64_t first) { return data == nullptr ? nullptr : data + first; }
  static const T* from(const T* data, std::int64_t first) { return data == nullptr ? nullptr : data + first; }

  T* shares(std::int64_t start) const {
    return pass_.responsibilities == nullptr ? own_ : pass_.responsibilities + start * pass_.components;
  }

  void find_responsibilities(std::int64_t start, const ShiftedRows<T>& rows) {
    const std::int64_t tiles = ceil_divide(rows.count, long_side), strips = ceil_divide(rows.columns, short_side);
    const MixtureModel<T> model{pass_.components, pass_.offset, pass_.location, is_tied_ ? nullptr : pass_.scale};
    const bool given = pass_.given != nullptr;
    const RowResults<T> out{from(pass_.log_densities, start * pass_.components), given ? nullptr : shares(start),
                            from(pass_.log_likelihood, start), totals_, from(pass_.weights, start)};
    switch (pass_.kind) {
      case MixtureKind::linear:
        launch(responsibilities_kernel<T, MixtureKind::linear>, tiles, 1, tiles, rows, model, out);
        break;
      case MixtureKind::diagonal:
        launch(responsibilities_kernel<T, MixtureKind::diagonal>, tiles, 1, tiles, rows, model, out);
        break;
      case MixtureKind::tied: {
        const ShiftedRows<T> white{whitened_, rows.columns, 1, nullptr, rows.count, rows.columns};
        launch(whitening_kernel<T>, tiles * strips, 1, tiles * strips, strips, rows, pass_.scale, whitened_);
        launch(responsibilities_kernel<T, MixtureKind::diagonal>, tiles, 1, tiles, white, model, out);
        break;
      }
      case MixtureKind::full:
        launch(responsibilities_kernel<T, MixtureKind::full>, tiles, 1, tiles, rows, model, out);
    }
    if (!given) add_moments(1, tiles, totals_, Total<double>{pass_.total});
  }

  const MixturePass<T>& pass_;
  bool needs_densities_, is_tied_;
  std::int64_t chunk_ = 0;
  T *whitened_ = nullptr, *totals_ = nullptr, *own_ = nullptr, *partial_ = nullptr;
};

}  // namespace

template <class T>
void MixtureKernels<T>::pass(const MixturePass<T>& pass) {
  if (pass.rows == 0) return;
  const DeviceGuard guard;
  Passing<T>(pass).run();
}

template struct MixtureKernels<float>;
template struct MixtureKernels<double>;

}  // namespace fastvi
