// A GPU of a kind on the CPU: the part of NVIDIA's driver that tvmlayers calls, with kernels that
// were compiled from their CUDA source as C++.
//
// Threads of a block are fibres: each runs until it waits (at a barrier, in a shuffle) or ends, and
// the others of its warp follow, then the other warps (block.h). A barrier that some threads never
// reach is an error, as is a launch that NVIDIA's driver would refuse. Every allocation ends or
// begins at memory that may not be touched.
#include <dlfcn.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "halves.h"

struct Dim { unsigned x, y, z; };
extern "C" { Dim threadIdx, blockIdx, blockDim, gridDim; }

namespace {

enum Status {
  kSuccess = 0, kInvalid = 1, kOutOfMemory = 2, kNotFound = 500, kNotReady = 600,
  kLaunchFailed = 719
};
constexpr size_t kPage = 4096;
constexpr unsigned kMostShared = 48 << 10;  // of a block that nobody asked more for

#include "block.h"

std::mutex lock;
size_t memory_left = 1ull << 40, live = 0;
bool guard_front = false;
int capability_major = 8, capability_minor = 0, driver_version = 13000, device_count = 1;
struct Allocation { char* map; size_t length, size, begin; };
std::map<uint64_t, Allocation> allocations;
bool events_happen = true;
long launches = 0, context_waits = 0, modules = 0, events = 0, event_waits = 0;
void *last_stream = nullptr, *last_wait[2];

// Puts `size` bytes between pages that may not be touched: begins there, or ends at most
// `alignment` - 1 bytes before.
char* map_guarded(size_t size, size_t alignment, Allocation& made) {
  size_t room = (size + kPage - 1) / kPage * kPage, length = room + 2 * kPage;
  char* map = (char*)mmap(nullptr, length, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  memset(map + kPage, 0xff, std::min(room, (size_t)1 << 24));  // NaN, and no valid index
  mprotect(map, kPage, PROT_NONE);
  mprotect(map + kPage + room, kPage, PROT_NONE);
  size_t begin = kPage + (guard_front ? 0 : (room - size) / alignment * alignment);
  made = {map, length, size, begin};
  return map + begin;
}

const char kHead[] = "tvmlayers emulated kernels\n";

}  // namespace

extern "C" {

void __syncthreads() { wait_as(kAtBarrier); }
int emulated_lane() { return running % kWarp; }
unsigned __activemask() {
  unsigned mask = 0;
  int begin = running / kWarp * kWarp;
  for (int lane = 0; lane < kWarp && begin + lane < total; ++lane)
    if (fibres[begin + lane].state != kEnded) mask |= 1u << lane;
  return mask;
}
uint64_t emulated_exchange(uint64_t bits, int from) {
  fibres[running].brought = bits;
  fibres[running].from = from;
  wait_as(kInExchange);
  return fibres[running].taken;
}

void emulated_copy(void* to, const void* from, int size, int bytes) {
  Copies& copies = fibres[running].copies;
  if (!ask(copies, *current->module, (char*)to, (const char*)from, size, bytes)) faulty = true;
}
void emulated_commit() {
  Copies& copies = fibres[running].copies;
  copies.committed.push_back(copies.asked);
  copies.asked.clear();
}
void emulated_wait(int left) { land(fibres[running].copies, left); }
void emulated_product(int kind, float* sum, const void* a, const void* b) {
  fibres[running].product = {kind, sum, a, b};
  wait_as(kInProduct);
}

char* emulated_dynamic() { return dynamic; }
float emulated_sum(const double* addends, int count) { return cut_sum(addends, count); }
void emulated_fault() {
  faulty = true;
  end();
}

// What a test can change about the device.
void emulated_set(int run_backwards, int guard_at_front) {
  backwards = run_backwards;
  guard_front = guard_at_front;
}
void emulated_be(int major, int minor, int version, int devices, uint64_t memory) {
  capability_major = major;
  capability_minor = minor;
  driver_version = version;
  device_count = devices;
  memory_left = memory;
}
long emulated_launches() { return launches; }
long emulated_modules() { return modules; }
long emulated_event_waits() { return event_waits; }
long emulated_events() { return events; }
void emulated_let_events_happen(int happen) { events_happen = happen; }
void* emulated_stream() { return last_stream; }
void* emulated_waited(int waiter) { return last_wait[waiter]; }
long emulated_context_waits() { return context_waits; }
uint64_t emulated_live() { return live; }

int cuInit(unsigned) { return device_count ? kSuccess : 100; }
int cuDriverGetVersion(int* version) { *version = driver_version; return kSuccess; }
int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return ordinal < device_count ? kSuccess : 101;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 75 ? capability_major : capability_minor;
  return kSuccess;
}
int cuDevicePrimaryCtxRetain(void** context, int ordinal) {
  *context = (void*)(uintptr_t)(ordinal + 1);
  return ordinal < device_count ? kSuccess : 101;
}
int cuCtxPushCurrent_v2(void*) { return kSuccess; }
int cuCtxGetCurrent(void** context) {
  *context = (void*)1;
  return kSuccess;
}
int cuCtxPopCurrent_v2(void**) { return kSuccess; }
int cuStreamSynchronize(void*) { return kSuccess; }
int cuEventCreate(void** event, unsigned) {
  ++events;
  *event = new void*(nullptr);
  return kSuccess;
}
int cuEventRecord(void* event, void* stream) {
  *(void**)event = stream;
  return kSuccess;
}
int cuStreamWaitEvent(void* stream, void* event, unsigned) {
  last_wait[0] = *(void**)event;
  last_wait[1] = stream;
  return kSuccess;
}
int cuEventQuery(void*) { return events_happen ? kSuccess : kNotReady; }
int cuEventSynchronize(void*) {
  ++event_waits;
  return kSuccess;
}
int cuEventDestroy_v2(void* event) {
  --events;
  delete (void**)event;
  return kSuccess;
}
int cuCtxSynchronize() {
  ++context_waits;
  return kSuccess;
}
int cuGetErrorName(int status, const char** name) {
  *name = status == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY"
          : status == kLaunchFailed ? "CUDA_ERROR_LAUNCH_FAILED"
          : status == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
          : status == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR";
  return kSuccess;
}
int cuGetErrorString(int, const char** text) { *text = "emulated"; return kSuccess; }

int cuMemAlloc_v2(uint64_t* address, size_t size) {
  std::lock_guard<std::mutex> hold(lock);
  if (size > memory_left) return kOutOfMemory;
  // Vectors of 16 bytes must stay aligned: up to 15 bytes behind the end can be touched unseen.
  Allocation made;
  char* begin = map_guarded(size, 16, made);
  if (!begin) return kOutOfMemory;
  *address = (uint64_t)begin;
  allocations[*address] = made;
  memory_left -= size;
  live += size;
  return kSuccess;
}
int cuMemFree_v2(uint64_t address) {
  std::lock_guard<std::mutex> hold(lock);
  auto found = allocations.find(address);
  if (found == allocations.end()) return kInvalid;
  memory_left += found->second.size;
  live -= found->second.size;
  munmap(found->second.map, found->second.length);
  allocations.erase(found);
  return kSuccess;
}
int cuMemsetD8Async(uint64_t address, unsigned char value, size_t size, void*) {
  memset((void*)address, value, size);
  return kSuccess;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t size, void*) {
  memcpy((void*)to, from, size);
  return kSuccess;
}
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void*) {
  memcpy((void*)to, (void*)from, size);
  return kSuccess;
}
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, void*) {
  memcpy(to, (void*)from, size);
  return kSuccess;
}

int cuModuleLoadData(void** module, const char* image) {
  if (strncmp(image, kHead, sizeof(kHead) - 1)) return 222;
  std::string path(image + sizeof(kHead) - 1);
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fprintf(stderr, "%s\n", dlerror());
    return kInvalid;
  }
  auto edge = [&](const char* name) {
    auto give = (char* (*)())dlsym(library, name);
    return give ? give() : nullptr;
  };
  ++modules;
  *module = new Module{library, edge("emulated_shared_begin"), edge("emulated_shared_end")};
  return kSuccess;
}
int cuModuleUnload(void* module) {
  --modules;
  dlclose(((Module*)module)->library);
  delete (Module*)module;
  return kSuccess;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  auto run = (void (*)(void**))dlsym(((Module*)module)->library, (std::string("emulated_") + name).c_str());
  if (!run) return kNotFound;
  *function = new Function{run, (Module*)module};
  return kSuccess;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** arguments, void**) {
  std::lock_guard<std::mutex> hold(lock);
  if (!gx || !gy || !gz || !bx || !by || !bz || gy > 65535 || gz > 65535 || bx > 1024 ||
      by > 1024 || bz > 64 || bx * by * bz > 1024 || shared > kMostShared)
    return kInvalid;
  ++launches;
  last_stream = stream;
  blockDim = {bx, by, bz};
  gridDim = {gx, gy, gz};
  total = bx * by * bz;
  current = (Function*)function;
  current_arguments = arguments;
  Allocation held{};
  dynamic = shared ? map_guarded(shared, 64, held) : nullptr;
  dynamic_size = shared;
  if ((int)fibres.size() < total) fibres.resize(total);
  while ((int)stacks.size() < total)
    stacks.push_back((char*)mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  int status = kSuccess;
  for (unsigned z = 0; z < gz; ++z)
    for (unsigned y = 0; y < gy; ++y)
      for (unsigned x = 0; x < gx; ++x) {
        blockIdx = backwards ? Dim{gx - 1 - x, gy - 1 - y, gz - 1 - z} : Dim{x, y, z};
        if (!status) status = run_block();
      }
  if (shared) munmap(held.map, held.length);
  return status;
}

}  // extern "C"
