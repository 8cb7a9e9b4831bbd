// Trajectories of many chains, which are cut into blocks: a block's chains lie side by side in vectors, one row of them
// for each dimension. Rows of data are cut into pieces, whose sums are added up in their order. Threads share the
// blocks; where these are too few for them, the pieces at each position.
#pragma once

#include <algorithm>
#include <vector>

#include "aligned.h"
#include "chains.h"
#include "parallel.h"
#include "vector.h"

namespace fastvi {

// How many rows a piece has, by the number of rows alone: at most 64 pieces, each of whole chunks.
struct Pieces {
  static constexpr std::int64_t chunk_rows = 64, least_rows = 256, most = 64;
  std::int64_t rows, piece_rows;

  explicit Pieces(std::int64_t all)
      : rows(all), piece_rows(std::max(least_rows, ceil_divide(ceil_divide(all, most), chunk_rows) * chunk_rows)) {}
  std::int64_t count() const { return std::max<std::int64_t>(1, ceil_divide(rows, piece_rows)); }
  std::int64_t begin(std::int64_t piece) const { return piece * piece_rows; }
  std::int64_t end(std::int64_t piece) const { return std::min(rows, begin(piece) + piece_rows); }
};

// Elementwise loops over a block, in one copy each, so that blocks of any width have the same bits (see parallel.h).
template <class T>
struct ChainLoops {
  // out[d, c] += (factor step[c] scale[d]) by[d, c]
  [[gnu::noinline]] static void add_scaled(std::int64_t dimensions, std::int64_t width, T factor, const T* step,
                                           const T* scale, const T* by, T* out);
  // out[d, c] += step[c] (the sum of matrix[d, e] by[e, c])
  [[gnu::noinline]] static void add_product(std::int64_t dimensions, std::int64_t width, const T* step, const T* matrix,
                                            const T* by, T* out);
  [[gnu::noinline]] static void add(std::int64_t count, const T* from, T* to);
  // Adds the prior to the values and the gradients.
  [[gnu::noinline]] static void add_prior(std::span<const PriorTerm<T>> prior, std::int64_t width, const T* position,
                                          T* gradient, double* value);
};

// `Rows` has the log-likelihood: `pieces()`; `piece(i, position, width, with_value, gradient, value, scratch)`, which
// overwrites the gradient and the values by the sums over a piece's rows; `finish(position, width, gradient, value)`,
// which may change the sums over all rows; `scratch(width)`, how many numbers a piece needs beside; `nanoseconds()`,
// about how long all rows take one vector of chains.
template <class T, class Rows>
class TrajectoryBlock {
 public:
  TrajectoryBlock(const ChainTrajectory<T>& trajectory, const Rows& rows, std::int64_t first, std::int64_t width)
      : trajectory_(trajectory),
        rows_(rows),
        first_(first),
        count_(std::min(width, trajectory.chains - first)),
        width_(width),
        size_(trajectory.dimensions * width),
        numbers_(4 * size_ + width + rows.scratch(width)),
        values_(2 * width) {
    std::fill_n(numbers_.get(), 3 * size_ + width, T(0));  // lanes without a chain, and the chains' first gradients
    read(trajectory.position, position());
    if (trajectory.num_steps == 0) return;
    read(trajectory.momentum, momentum());
    read(trajectory.gradient, gradient());
    for (std::int64_t c = 0; c < count_; ++c) {
      step()[c] = trajectory.step_size[trajectory.step_per_chain ? first_ + c : 0];
    }
  }

  void begin_step(std::int64_t i) {
    kick(i == 0 ? T(0.5) : T(1));
    const T* const mass = trajectory_.inverse_mass;
    if (trajectory_.dense_mass) {
      ChainLoops<T>::add_product(trajectory_.dimensions, width_, step(), mass, momentum(), position());
    } else {
      ChainLoops<T>::add_scaled(trajectory_.dimensions, width_, T(1), step(), mass, momentum(), position());
    }
  }
  void end_steps() { kick(T(0.5)); }

  void evaluate(bool with_value) {
    rows_.piece(0, position(), width_, with_value, gradient(), value(), scratch());
    for (std::int64_t i = 1; i < rows_.pieces().count(); ++i) {
      rows_.piece(i, position(), width_, with_value, own_sums(), value() + width_, scratch());
      add_piece(own_sums(), value() + width_);
    }
    finish();
  }

  // The same in parts: a piece into sums of its own, and all of them added up.
  void piece(std::int64_t i, bool with_value, T* gradient, double* value, T* scratch) const {
    rows_.piece(i, position(), width_, with_value, gradient, value, scratch);
  }
  void add_pieces(const T* gradients, const double* values) {
    std::copy_n(gradients, size_, gradient());
    std::copy_n(values, width_, value());
    for (std::int64_t i = 1; i < rows_.pieces().count(); ++i) add_piece(gradients + i * size_, values + i * width_);
    finish();
  }
  std::int64_t size() const { return size_; }

  void write() const {
    if (trajectory_.num_steps > 0) {
      write(position(), trajectory_.end_position);
      write(momentum(), trajectory_.end_momentum);
    }
    write(gradient(), trajectory_.end_gradient);
    for (std::int64_t c = 0; c < count_; ++c) {
      trajectory_.log_density[first_ + c] = static_cast<T>(value()[c] + trajectory_.constant);
    }
  }

 private:
  T* position() const { return numbers_.get(); }
  T* momentum() const { return numbers_.get() + size_; }
  T* gradient() const { return numbers_.get() + 2 * size_; }
  T* step() const { return numbers_.get() + 3 * size_; }
  T* own_sums() const { return step() + width_; }
  T* scratch() const { return own_sums() + size_; }
  double* value() const { return values_.get(); }

  void kick(T factor) {
    ChainLoops<T>::add_scaled(trajectory_.dimensions, width_, factor, step(), nullptr, gradient(), momentum());
  }
  void add_piece(const T* sums, const double* values) {
    ChainLoops<T>::add(size_, sums, gradient());
    for (std::int64_t c = 0; c < width_; ++c) value()[c] += values[c];
  }
  void finish() {
    rows_.finish(position(), width_, gradient(), value());
    ChainLoops<T>::add_prior(trajectory_.prior, width_, position(), gradient(), value());
  }
  void read(const T* from, T* to) const {
    const std::int64_t dimensions = trajectory_.dimensions;
    for (std::int64_t c = 0; c < count_; ++c) {
      const T* const chain = from + (first_ + c) * dimensions;
      for (std::int64_t d = 0; d < dimensions; ++d) to[d * width_ + c] = chain[d];
    }
  }
  void write(const T* from, T* to) const {
    const std::int64_t dimensions = trajectory_.dimensions;
    for (std::int64_t c = 0; c < count_; ++c) {
      T* const chain = to + (first_ + c) * dimensions;
      for (std::int64_t d = 0; d < dimensions; ++d) chain[d] = from[d * width_ + c];
    }
  }

  const ChainTrajectory<T>& trajectory_;
  const Rows& rows_;
  std::int64_t first_, count_, width_, size_;
  Buffer<T> numbers_;
  Buffer<double> values_;
};

// How chains are shared: blocks of one or two vectors, and whether threads share the rows of each.
struct Sharing {
  static constexpr double least_shared_nanoseconds = 40000;  // of a position, so that meeting twice costs little
  std::int64_t vectors, blocks;
  bool by_pieces;

  Sharing(std::int64_t chains, std::int64_t lanes_of_vector, std::int64_t pieces, double nanoseconds) {
    const std::int64_t threads = forked ? 1 : omp_get_max_threads();
    const auto rounds = [&](std::int64_t of) {
      return of * ceil_divide(ceil_divide(chains, of * lanes_of_vector), threads);
    };
    vectors = chains > lanes_of_vector && rounds(2) <= rounds(1) ? 2 : 1;
    blocks = ceil_divide(chains, vectors * lanes_of_vector);
    const auto by_blocks = static_cast<double>(ceil_divide(blocks, threads));
    const double by_rows = static_cast<double>(ceil_divide(blocks * pieces, threads)) / static_cast<double>(pieces);
    by_pieces =
        by_rows < 0.8 * by_blocks && nanoseconds * static_cast<double>(blocks * vectors) > least_shared_nanoseconds;
  }
};

template <class T, class Rows>
void follow_blocks(const ChainTrajectory<T>& trajectory, const Rows& rows, const Sharing& sharing) {
  const std::int64_t width = sharing.vectors * lanes<T>, steps = trajectory.num_steps;
  const double evaluations = static_cast<double>(std::max<std::int64_t>(1, steps) * sharing.blocks * sharing.vectors);
  parallel_for(sharing.blocks, static_cast<std::int64_t>(rows.nanoseconds() * evaluations), [&](std::int64_t i) {
    TrajectoryBlock<T, Rows> block(trajectory, rows, i * width, width);
    for (std::int64_t step = 0; step < steps; ++step) {
      block.begin_step(step);
      block.evaluate(step == steps - 1);
    }
    if (steps == 0) {
      block.evaluate(true);
    } else {
      block.end_steps();
    }
    block.write();
  });
}

template <class T, class Rows>
void follow_pieces(const ChainTrajectory<T>& trajectory, const Rows& rows, const Sharing& sharing) {
  const std::int64_t width = sharing.vectors * lanes<T>, pieces = rows.pieces().count(), steps = trajectory.num_steps;
  std::vector<TrajectoryBlock<T, Rows>> blocks;
  blocks.reserve(static_cast<std::size_t>(sharing.blocks));
  for (std::int64_t i = 0; i < sharing.blocks; ++i) blocks.emplace_back(trajectory, rows, i * width, width);
  const std::int64_t size = blocks[0].size(), items = sharing.blocks * pieces, scratch = rows.scratch(width);
  const Buffer<T> sums(items * size), beside(scratch * omp_get_max_threads());
  const Buffer<double> values(items * width);
  const double nanoseconds = rows.nanoseconds() * static_cast<double>(sharing.blocks * sharing.vectors);
  for (std::int64_t step = 0; step < std::max<std::int64_t>(1, steps); ++step) {
    if (steps > 0) {
      for (auto& block : blocks) block.begin_step(step);
    }
    parallel_for(items, static_cast<std::int64_t>(nanoseconds), [&](std::int64_t item) {
      blocks[static_cast<std::size_t>(item / pieces)].piece(item % pieces, step + 1 >= steps, sums.get() + item * size,
                                                            values.get() + item * width,
                                                            beside.get() + scratch * omp_get_thread_num());
    });
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const auto first = static_cast<std::int64_t>(i) * pieces;
      blocks[i].add_pieces(sums.get() + first * size, values.get() + first * width);
    }
  }
  for (auto& block : blocks) {
    if (steps > 0) block.end_steps();
    block.write();
  }
}

template <class T, class Rows>
void follow_rows(const ChainTrajectory<T>& trajectory, const Rows& rows) {
  if (trajectory.chains == 0) return;
  const Sharing sharing(trajectory.chains, lanes<T>, rows.pieces().count(), rows.nanoseconds());
  if (sharing.by_pieces) {
    follow_pieces(trajectory, rows, sharing);
  } else {
    follow_blocks(trajectory, rows, sharing);
  }
}

}  // namespace fastvi
