// The threads of a block, one after the other, as fibres: part of device.cpp.
#pragma once

enum State { kReady, kAtBarrier, kInExchange, kInProduct, kEnded };

constexpr size_t kStack = 256 << 10;
constexpr int kWarp = 32;

struct Module { void* library; char* shared_begin; char* shared_end; };

#include "instructions.h"

struct Fibre {
  ucontext_t first;
  jmp_buf at;
  State state;
  bool started;
  uint64_t brought, taken;
  int from;
  Product product;
  Copies copies;
};

struct Function { void (*run)(void**); Module* module; };

std::vector<Fibre> fibres;
std::vector<char*> stacks;
jmp_buf scheduler;
int running, total;
bool backwards = false, faulty = false;
Function* current;
void** current_arguments;
char* dynamic = nullptr;
size_t dynamic_size = 0;

void place(int thread) {
  running = thread;
  threadIdx.x = thread % blockDim.x;
  threadIdx.y = thread / blockDim.x % blockDim.y;
  threadIdx.z = thread / blockDim.x / blockDim.y;
}

void wait_as(State state) {
  fibres[running].state = state;
  if (_setjmp(fibres[running].at) == 0) _longjmp(scheduler, 1);
}

void end() {
  fibres[running].state = kEnded;
  _longjmp(scheduler, 1);
}

void body() {
  current->run(current_arguments);
  end();
}

void resume(int thread) {
  place(thread);
  Fibre& fibre = fibres[thread];
  if (_setjmp(scheduler) != 0) return;
  if (fibre.started) _longjmp(fibre.at, 1);
  fibre.started = true;
  setcontext(&fibre.first);
}

// Lets a warp go on whose threads have all come to a product; whether they had.
bool product(int begin) {
  if (begin + kWarp > total) return false;
  Product lanes[kWarp];
  for (int lane = 0; lane < kWarp; ++lane) {
    if (fibres[begin + lane].state != kInProduct) return false;
    lanes[lane] = fibres[begin + lane].product;
  }
  multiply(lanes);
  for (int lane = 0; lane < kWarp; ++lane) fibres[begin + lane].state = kReady;
  return true;
}

// Lets a warp go on whose threads have all brought their value; whether they had.
bool exchange(int begin) {
  int end = std::min(begin + kWarp, total), waiting = 0, ended = 0;
  for (int t = begin; t < end; ++t) {
    waiting += fibres[t].state == kInExchange;
    ended += fibres[t].state == kEnded;
  }
  if (!waiting || waiting + ended < end - begin) return false;
  for (int t = begin; t < end; ++t) {
    if (fibres[t].state != kInExchange) continue;
    int from = begin + fibres[t].from;
    // What a lane that is not there brings is anybody's guess.
    bool there = from < end && fibres[from].state == kInExchange;
    fibres[t].taken = there ? fibres[from].brought : 0x7ff7dead7fc0deadull;
  }
  for (int t = begin; t < end; ++t)
    if (fibres[t].state == kInExchange) fibres[t].state = kReady;
  return true;
}

// Runs a warp as far as it comes without the others, which a missing barrier lets it get ahead of.
void run_warp(int begin) {
  int count = std::min(kWarp, total - begin);
  do {
    for (int i = 0; i < count; ++i) {
      int t = begin + (backwards ? count - 1 - i : i);
      if (fibres[t].state == kReady) resume(t);
    }
  } while (exchange(begin) || product(begin));
}

int run_block() {
  if (current->module->shared_begin)
    memset(current->module->shared_begin, kSpoilt,
           current->module->shared_end - current->module->shared_begin);
  if (dynamic) memset(dynamic, kSpoilt, dynamic_size);
  for (int t = 0; t < total; ++t) {
    Fibre& fibre = fibres[t];
    getcontext(&fibre.first);
    fibre.first.uc_stack.ss_sp = stacks[t];
    fibre.first.uc_stack.ss_size = kStack;
    fibre.first.uc_link = nullptr;
    makecontext(&fibre.first, body, 0);
    fibre.state = kReady;
    fibre.started = false;
    fibre.copies.clear();
  }
  faulty = false;
  for (;;) {
    int ended = 0, waiting = 0, warps = (total + kWarp - 1) / kWarp;
    for (int i = 0; i < warps; ++i) run_warp((backwards ? warps - 1 - i : i) * kWarp);
    for (int t = 0; t < total; ++t) {
      ended += fibres[t].state == kEnded;
      waiting += fibres[t].state == kAtBarrier;
    }
    if (faulty) return kLaunchFailed;  // an asynchronous copy that no GPU would make
    if (ended == total) return kSuccess;
    if (waiting != total) return kLaunchFailed;  // a barrier that not all threads reach
    for (int t = 0; t < total; ++t) fibres[t].state = kReady;
  }
}
