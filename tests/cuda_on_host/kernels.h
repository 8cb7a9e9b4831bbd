// Small kernels to test the stand-in with, and the mistakes that each can be given.
#pragma once

#include <cstdint>

enum class Bug {
  none,
  missing_barrier,
  divergent_barrier,
  early_exit,
  unwritten_shared,
  shared_overrun,
  off_by_one,
  odd_offset,
  short_mask,
  mask_without_itself,
  differing_masks,
  mixed_collectives,
  missing_lanes,
};

// out[row] = sum of `columns` numbers, a multiple of 4, in blocks of a warp or of 128 threads.
void warp_sums(Bug bug, const float* in, std::int64_t rows, std::int64_t columns, float* out);
void block_sums(Bug bug, const float* in, std::int64_t rows, std::int64_t columns, float* out);

// out[i] = 2 in[i] by a few blocks that stride over all elements.
void doubled(const double* in, std::int64_t count, double* out);

// Each row of 32 numbers in reverse, by way of shared memory that a warp has to itself.
void reversed_rows(Bug bug, const int* in, std::int64_t rows, int* out);

// For every lane of a warp: ballot, any and all of lane % 3 == 0 within the own half of the warp.
void votes(Bug bug, unsigned* out);

// For every lane of a warp, what each of the four shuffles gives to it of `in`.
void shuffles(const std::int64_t* in, int operand, int width, std::int64_t* out);
