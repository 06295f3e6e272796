// nvcuda::wmma of a warp, 16 x 16 x 16: products of halves, sums in float32.
//
// Lane L keeps of the sums, and of the operands what these need: row L / 2, and eight columns, from
// the first or the eighth on. Each word waits for the whole warp; all lanes must give it the same
// place, aligned as the CUDA programming guide asks. Fragments that nobody filled are spoilt.
#pragma once

namespace nvcuda {
namespace wmma {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <int count> struct Spoilt {
  float x[count];
  Spoilt() { memset(x, 0x4b, sizeof(x)); }
};
template <class Use, int m, int n, int k, class T, class Layout = void> struct fragment;
template <class T, class Layout>
struct fragment<matrix_a, 16, 16, 16, T, Layout> : Spoilt<16> {};
template <class T, class Layout>
struct fragment<matrix_b, 16, 16, 16, T, Layout> : Spoilt<8 * 16> {};
template <> struct fragment<accumulator, 16, 16, 16, float> : Spoilt<8> {};

inline void meet(uint64_t given) {
  if (emulated_shuffle(given, 0) != given) emulated_fault();
}
template <class T> void meet(const T* at, unsigned stride) {
  if ((uintptr_t)at % 32 || stride * sizeof(T) % 16) emulated_fault();
  meet((uint64_t)at ^ (uint64_t)stride << 48);
}
inline int own_row() { return emulated_lane() / 2; }
inline int own_column() { return emulated_lane() % 2 * 8; }
inline unsigned place(int row, int column, unsigned stride, row_major*) { return row * stride + column; }
inline unsigned place(int row, int column, unsigned stride, col_major*) { return column * stride + row; }

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float>& to, float value) {
  for (float& each : to.x) each = value;
}
template <class T, class Layout>
void load_matrix_sync(fragment<matrix_a, 16, 16, 16, T, Layout>& to, const T* from, unsigned stride) {
  meet(from, stride);
  for (int k = 0; k < 16; ++k) to.x[k] = (float)from[place(own_row(), k, stride, (Layout*)0)];
}
template <class T, class Layout>
void load_matrix_sync(fragment<matrix_b, 16, 16, 16, T, Layout>& to, const T* from, unsigned stride) {
  meet(from, stride);
  for (int i = 0; i < 8; ++i)
    for (int k = 0; k < 16; ++k)
      to.x[i * 16 + k] = (float)from[place(k, own_column() + i, stride, (Layout*)0)];
}
template <class A, class B>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& to, const A& a, const B& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
  meet(0);
  for (int i = 0; i < 8; ++i) {
    double addends[17] = {c.x[i]};
    for (int k = 0; k < 16; ++k) addends[k + 1] = (double)a.x[k] * b.x[i * 16 + k];
    to.x[i] = emulated_sum(addends, 17);
  }
}
inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& from,
                              unsigned stride, layout_t layout) {
  meet(to, stride);
  for (int i = 0; i < 8; ++i) {
    int row = own_row(), column = own_column() + i;
    to[layout == mem_row_major ? row * stride + column : column * stride + row] = from.x[i];
  }
}
}  // namespace wmma
}  // namespace nvcuda
