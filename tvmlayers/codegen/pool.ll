; The threads of the process: one pool for all callers, in the LLVM text that every library carries.
;
; A call offers its tasks as a job and works through them itself, from the first one up. Workers take
; tasks of it that nobody has begun, from the last one down, their own first. At the end the caller
; waits for those tasks alone that a worker has begun. So a worker that the system does not run
; costs nothing, and nobody holds a lock that another needs.
;
; TVM turns each of these functions into part of the function that calls it. FUTEX (the number of
; the system call) and PAUSE (the processor's hint for loops that wait) depend on the architecture.

%job = type {
  [4 x i64],  ; 0: the tasks that nobody has begun, a bit each; none where there is no job
  ptr,        ; 1: the compiled body of the loop over tasks
  ptr,        ; 2: what the body was given; its first field is the number of tasks, or a wider one
  i32,        ; 3: that number
  i32,        ; 4: the CPU of the caller
  [8 x i8],
  i32,        ; 6: how many tasks workers have finished; the caller sleeps on it
  i32,        ; 7: whether the caller sleeps, or is about to
  i32,        ; 8: whether a caller has this job
  [52 x i8]
}
%shared = type {
  i32,        ; 0: CPUs that the process may use
  i32,        ; 1: workers that have been started
  i32,        ; 2: whether somebody starts workers
  [116 x i8],
  i32,        ; 4: calls that share out work right now
  [124 x i8],
  i32,        ; 6: offers made so far; workers sleep on it
  i32,        ; 7: workers that sleep, or are about to
  [120 x i8],
  i32,        ; 9: workers that a call may have help from; fewer where others use the CPUs
  i64,        ; 10: when one more is tried again
  i64,        ; 11: how long that takes
  i64,        ; 12: when the last call ended that had help
  i64,        ; 13: when a worker was last kept waiting
  i32,        ; 14: threads that have called within 20 ms, as counted last
  i64,        ; 15: when that was
  [72 x i8]
}
; What TVM hands the body of a parallel loop, which divides its range by the number of tasks.
%group = type { ptr, i32 }

@tvmlayers_jobs = internal global [16 x %job] zeroinitializer, align 128
@tvmlayers_shared = internal global %shared zeroinitializer, align 128
; How long the last call took of each parallel loop, by a few bits of its address; 0: not known.
@tvmlayers_took = internal global [64 x i64] zeroinitializer, align 128
@tvmlayers_thread_name = internal constant [10 x i8] c"tvmlayers\00"
@tvmlayers_launch = external global i8
@tvmlayers_worker = external global i8
@__TVMBackendParallelLaunch = external global ptr
; When a thread last called, by a few bits of its address; 0: never.
@tvmlayers_seen = internal global [64 x i64] zeroinitializer, align 128

; The thread that the process ends with.
@tvmlayers_main = internal global i64 0
@tvmlayers_park = external global i8

declare i32 @pause()
declare i64 @pthread_self()
declare i64 @syscall(i64, ...)
declare i32 @sched_yield()
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @sched_setaffinity(i32, i64, ptr)
declare i32 @__sched_cpucount(i64, ptr)
declare i32 @clock_gettime(i32, ptr)
declare i32 @prctl(i32, ...)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)

; A pool without workers for so many CPUs; gives the address of the function that shares out work.
define i64 @tvmlayers_new_pool(i64 %cpus) {
  call void @llvm.memset.p0.i64(ptr @tvmlayers_jobs, i8 0, i64 2048, i1 false)
  call void @llvm.memset.p0.i64(ptr @tvmlayers_shared, i8 0, i64 512, i1 false)
  call void @llvm.memset.p0.i64(ptr @tvmlayers_seen, i8 0, i64 512, i1 false)
  %count = trunc i64 %cpus to i32
  store i32 %count, ptr @tvmlayers_shared
  %most = sub i32 %count, 1
  %spare = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 9
  store i32 %most, ptr %spare
  ret i64 ptrtoint (ptr @tvmlayers_launch to i64)
}

; From here on the parallel loops of this module go to the function at that address.
define void @tvmlayers_use_pool(i64 %launch) {
  %function = inttoptr i64 %launch to ptr
  store ptr %function, ptr @__TVMBackendParallelLaunch
  ret void
}

; The address of what C++ is to call instead of ending the process, but for its main thread.
define i64 @tvmlayers_parking(i64 %main) {
  store i64 %main, ptr @tvmlayers_main
  ret i64 ptrtoint (ptr @tvmlayers_park to i64)
}

define void @tvmlayers_stay() {
entry:
  %self = call i64 @pthread_self()
  %main = load i64, ptr @tvmlayers_main
  %is_main = icmp eq i64 %self, %main
  br i1 %is_main, label %out, label %wait
wait:
  %woken = call i32 @pause()
  br label %wait
out:
  ret void
}

define i64 @tvmlayers_now(ptr %time) {
  %failed = call i32 @clock_gettime(i32 1, ptr %time)
  %seconds = load i64, ptr %time
  %rest = getelementptr i64, ptr %time, i64 1
  %nanoseconds = load i64, ptr %rest
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %nanoseconds
  ret i64 %now
}

; Sleeps while the word holds this value, until a wake for one of the bits.
define void @tvmlayers_sleep(ptr %word, i32 %value, i32 %bits) {
  %done = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 137, i32 %value, ptr null, ptr null, i32 %bits)
  ret void
}

define void @tvmlayers_wake(ptr %word, i32 %count, i32 %bits) {
  %done = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i32 138, i32 %count, ptr null, ptr null, i32 %bits)
  ret void
}

; Starts workers until there are so many. They take no signals, which are for the program's threads.
define void @tvmlayers_hire(i32 %wanted) {
entry:
  %all = alloca [16 x i64], align 8
  %before = alloca [16 x i64], align 8
  %thread = alloca i64, align 8
  %workers = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 1
  %busy = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 2
  %first = cmpxchg ptr %busy, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %first, 1
  br i1 %mine, label %block, label %out
block:
  call void @llvm.memset.p0.i64(ptr %all, i8 -1, i64 128, i1 false)
  %blocked = call i32 @pthread_sigmask(i32 2, ptr %all, ptr %before)
  br label %check
check:
  %have = load atomic i32, ptr %workers monotonic, align 4
  %enough = icmp sge i32 %have, %wanted
  br i1 %enough, label %restore, label %start
start:
  %number = add i32 %have, 1
  %wide = zext i32 %number to i64
  %argument = inttoptr i64 %wide to ptr
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @tvmlayers_worker, ptr %argument)
  %started = icmp eq i32 %failed, 0
  br i1 %started, label %let_go, label %settle
let_go:
  %handle = load i64, ptr %thread
  %detached = call i32 @pthread_detach(i64 %handle)
  store atomic i32 %number, ptr %workers release, align 4
  br label %check
settle:
  ; The system gives no more threads: those that are there are all that this pool will have.
  store i32 %number, ptr @tvmlayers_shared
  br label %restore
restore:
  %restored = call i32 @pthread_sigmask(i32 2, ptr %before, ptr null)
  store atomic i32 0, ptr %busy release, align 4
  br label %out
out:
  ret void
}

; Takes a task of the job: `own` if nobody has begun it, else the lowest or the highest one; -1
; where all have been begun.
define i32 @tvmlayers_take(ptr %job, i32 %own, i1 %lowest) {
entry:
  %wanted = icmp ult i32 %own, 256
  br i1 %wanted, label %try, label %search
try:
  %own_word = lshr i32 %own, 6
  %own_place = getelementptr i64, ptr %job, i32 %own_word
  %own_shift = and i32 %own, 63
  %own_shift64 = zext i32 %own_shift to i64
  %own_bit = shl i64 1, %own_shift64
  %own_seen = load atomic i64, ptr %own_place monotonic, align 8
  %own_masked = and i64 %own_seen, %own_bit
  %own_open = icmp ne i64 %own_masked, 0
  br i1 %own_open, label %claim_own, label %search
claim_own:
  %own_others = xor i64 %own_bit, -1
  %own_before = atomicrmw and ptr %own_place, i64 %own_others acquire
  %own_left = and i64 %own_before, %own_bit
  %own_mine = icmp ne i64 %own_left, 0
  br i1 %own_mine, label %got_own, label %search
got_own:
  ret i32 %own
search:
  %step = phi i32 [ 0, %entry ], [ 0, %try ], [ 0, %claim_own ], [ %next_step, %next ]
  %down = sub i32 3, %step
  %word = select i1 %lowest, i32 %step, i32 %down
  %place = getelementptr i64, ptr %job, i32 %word
  br label %look
look:
  %seen = load atomic i64, ptr %place monotonic, align 8
  %empty = icmp eq i64 %seen, 0
  br i1 %empty, label %next, label %claim
claim:
  %low = call i64 @llvm.cttz.i64(i64 %seen, i1 true)
  %zeros = call i64 @llvm.ctlz.i64(i64 %seen, i1 true)
  %high = sub i64 63, %zeros
  %shift = select i1 %lowest, i64 %low, i64 %high
  %bit = shl i64 1, %shift
  %others = xor i64 %bit, -1
  %before = atomicrmw and ptr %place, i64 %others acquire
  %left = and i64 %before, %bit
  %mine = icmp ne i64 %left, 0
  br i1 %mine, label %got, label %look
got:
  %base = shl i32 %word, 6
  %shift32 = trunc i64 %shift to i32
  %task = add i32 %base, %shift32
  ret i32 %task
next:
  %next_step = add i32 %step, 1
  %more = icmp ult i32 %next_step, 4
  br i1 %more, label %search, label %none
none:
  ret i32 -1
}

; A job of the caller's own; null where all are in use.
define ptr @tvmlayers_job() {
entry:
  br label %try
try:
  %i = phi i64 [ 0, %entry ], [ %next, %again ]
  %job = getelementptr %job, ptr @tvmlayers_jobs, i64 %i
  %used = getelementptr %job, ptr %job, i64 0, i32 8
  %seen = load atomic i32, ptr %used monotonic, align 4
  %free = icmp eq i32 %seen, 0
  br i1 %free, label %claim, label %again
claim:
  %claimed = cmpxchg ptr %used, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %claimed, 1
  br i1 %mine, label %got, label %again
got:
  ret ptr %job
again:
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, 16
  br i1 %more, label %try, label %none
none:
  ret ptr null
}

; The bits of the tasks from 1 up that lie in word %w, for %tasks in all.
define i64 @tvmlayers_open(i32 %tasks, i32 %w) {
  %first = shl i32 %w, 6
  %rest = sub i32 %tasks, %first
  %some = call i32 @llvm.smax.i32(i32 %rest, i32 0)
  %bits = call i32 @llvm.smin.i32(i32 %some, i32 64)
  %wide = zext i32 %bits to i64
  %unused = sub i64 64, %wide
  %is_none = icmp eq i32 %bits, 0
  %safe = select i1 %is_none, i64 0, i64 %unused
  %ones = lshr i64 -1, %safe
  %is_first = icmp eq i32 %w, 0
  %skipped = and i64 %ones, -2
  %kept = select i1 %is_first, i64 %skipped, i64 %ones
  %open = select i1 %is_none, i64 0, i64 %kept
  ret i64 %open
}

; Waits, awake, until the word is the value (or is not, as %equal says): 1. Gives up after 100 us: 0;
; and when the system did not run this thread for 1 ms: 2.
define i32 @tvmlayers_spin(ptr %word, i32 %value, i1 %equal, ptr %time) {
entry:
  %begin = call i64 @tvmlayers_now(ptr %time)
  br label %round
round:
  %last = phi i64 [ %begin, %entry ], [ %now, %on ]
  br label %pause
pause:
  %i = phi i32 [ 0, %round ], [ %i_next, %again ]
  PAUSE
  %seen = load atomic i32, ptr %word acquire, align 4
  %same = icmp eq i32 %seen, %value
  %hit = icmp eq i1 %same, %equal
  br i1 %hit, label %yes, label %again
yes:
  ret i32 1
again:
  %i_next = add i32 %i, 1
  %more = icmp ult i32 %i_next, 32
  br i1 %more, label %pause, label %clock
clock:
  %now = call i64 @tvmlayers_now(ptr %time)
  %step = sub i64 %now, %last
  %lost = icmp ugt i64 %step, 1000000
  br i1 %lost, label %put_aside, label %go_on
put_aside:
  ret i32 2
go_on:
  %spent = sub i64 %now, %begin
  %over = icmp ugt i64 %spent, 100000
  br i1 %over, label %no, label %on
on:
  br label %round
no:
  ret i32 0
}

; Leaves the CPU of a caller, on which Linux may wake a worker though another one idles. The two
; would take turns for tens of milliseconds. The thread moves when its CPU is taken out of its mask,
; and gets the whole mask back at once. There is room for 1024 CPUs.
define void @tvmlayers_part(i32 %cpu) {
entry:
  %mask = alloca [16 x i64], align 8
  %in_mask = icmp ult i32 %cpu, 1024
  br i1 %in_mask, label %ask, label %out
ask:
  %failed = call i32 @sched_getaffinity(i32 0, i64 128, ptr %mask)
  %known = icmp eq i32 %failed, 0
  br i1 %known, label %count, label %out
count:
  %cpus = call i32 @__sched_cpucount(i64 128, ptr %mask)
  %enough = icmp sgt i32 %cpus, 1
  br i1 %enough, label %move, label %out
move:
  %number = zext i32 %cpu to i64
  %word = lshr i64 %number, 6
  %place = getelementptr i64, ptr %mask, i64 %word
  %of_word = and i64 %number, 63
  %bit = shl i64 1, %of_word
  %without = xor i64 %bit, -1
  %all = load i64, ptr %place
  %others = and i64 %all, %without
  store i64 %others, ptr %place
  %left = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  store i64 %all, ptr %place
  %free = call i32 @sched_setaffinity(i32 0, i64 128, ptr %mask)
  br label %out
out:
  ret void
}

; Whether there are tasks of the job that nobody has begun.
define i1 @tvmlayers_is_open(ptr %job) {
  %p1 = getelementptr i64, ptr %job, i64 1
  %p2 = getelementptr i64, ptr %job, i64 2
  %p3 = getelementptr i64, ptr %job, i64 3
  %w0 = load atomic i64, ptr %job monotonic, align 8
  %w1 = load atomic i64, ptr %p1 monotonic, align 8
  %w2 = load atomic i64, ptr %p2 monotonic, align 8
  %w3 = load atomic i64, ptr %p3 monotonic, align 8
  %a = or i64 %w0, %w1
  %b = or i64 %w2, %w3
  %any = or i64 %a, %b
  %open = icmp ne i64 %any, 0
  ret i1 %open
}

; Notes that a worker was kept waiting: for 1 ms, and so long that the caller alone would have been
; done. Twice within 50 ms means that others use its CPU: calls have one helper less for 20 ms, and
; for twice as long each time that the next one is kept waiting as well, up to 1.28 s.
define void @tvmlayers_crowded(i64 %now) {
entry:
  %spare_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 9
  %retry_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 10
  %pause_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 11
  %spare = load atomic i32, ptr %spare_place monotonic, align 4
  %retry = load atomic i64, ptr %retry_place monotonic, align 8
  %pause = load atomic i64, ptr %pause_place monotonic, align 8
  %late_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 13
  %late = load atomic i64, ptr %late_place monotonic, align 8
  store atomic i64 %now, ptr %late_place monotonic, align 8
  %twice = shl i64 %pause, 1
  %long = add i64 %retry, %twice
  %again = icmp slt i64 %now, %long
  %since = sub i64 %now, %late
  %soon = icmp slt i64 %since, 50000000
  %counts = or i1 %again, %soon
  br i1 %counts, label %withdraw, label %out
withdraw:
  %less = sub i32 %spare, 1
  %fewer = call i32 @llvm.smax.i32(i32 %less, i32 0)
  store atomic i32 %fewer, ptr %spare_place monotonic, align 4
  %next = select i1 %again, i64 %twice, i64 0
  %least = call i64 @llvm.smax.i64(i64 %next, i64 20000000)
  %most = call i64 @llvm.smin.i64(i64 %least, i64 1280000000)
  store atomic i64 %most, ptr %pause_place monotonic, align 8
  %then = add i64 %now, %most
  store atomic i64 %then, ptr %retry_place monotonic, align 8
  br label %out
out:
  ret void
}

; Notes that this thread calls, and gives how many threads do, by a count of the last millisecond.
define i32 @tvmlayers_calling(i64 %now) {
entry:
  %self = call i64 @pthread_self()
  %pages = lshr i64 %self, 12
  %mixed = mul i64 %pages, -7046029254386353131
  %hash = lshr i64 %mixed, 58
  %mine = getelementptr i64, ptr @tvmlayers_seen, i64 %hash
  store atomic i64 %now, ptr %mine monotonic, align 8
  %count_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 14
  %when_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 15
  %when = load atomic i64, ptr %when_place monotonic, align 8
  %age = sub i64 %now, %when
  %old = icmp sgt i64 %age, 1000000
  br i1 %old, label %count, label %known
count:
  store atomic i64 %now, ptr %when_place monotonic, align 8
  %since = sub i64 %now, 20000000
  br label %each
each:
  %i = phi i64 [ 0, %count ], [ %i_next, %each ]
  %sum = phi i32 [ 0, %count ], [ %sum_next, %each ]
  %place = getelementptr i64, ptr @tvmlayers_seen, i64 %i
  %seen = load atomic i64, ptr %place monotonic, align 8
  %recent = icmp sgt i64 %seen, %since
  %one = zext i1 %recent to i32
  %sum_next = add i32 %sum, %one
  %i_next = add i64 %i, 1
  %more = icmp ult i64 %i_next, 64
  br i1 %more, label %each, label %counted
counted:
  store atomic i32 %sum_next, ptr %count_place monotonic, align 4
  ret i32 %sum_next
known:
  %last = load atomic i32, ptr %count_place monotonic, align 4
  ret i32 %last
}

; How many of so many helpers a call may have now.
define i32 @tvmlayers_helpers(i32 %wanted, i64 %now) {
entry:
  %spare_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 9
  %spare = load atomic i32, ptr %spare_place monotonic, align 4
  %enough = icmp sge i32 %spare, %wanted
  br i1 %enough, label %all, label %few
all:
  ret i32 %wanted
few:
  %retry_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 10
  %retry = load atomic i64, ptr %retry_place monotonic, align 8
  %due = icmp sgt i64 %now, %retry
  br i1 %due, label %more, label %some
more:
  %pause_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 11
  %pause = load atomic i64, ptr %pause_place monotonic, align 8
  %then = add i64 %now, %pause
  store atomic i64 %then, ptr %retry_place monotonic, align 8
  %one_more = add i32 %spare, 1
  store atomic i32 %one_more, ptr %spare_place monotonic, align 4
  ret i32 %one_more
some:
  ret i32 %spare
}

; The caller's side: `body(task, group, data)` for each task. Called as TVM's own function is.
define i32 @tvmlayers_share(ptr %body, ptr %data) {
entry:
  %group = alloca %group, align 8
  %time = alloca [2 x i64], align 8
  %tasks = load i32, ptr %data
  store ptr null, ptr %group
  %group_tasks = getelementptr %group, ptr %group, i64 0, i32 1
  store i32 %tasks, ptr %group_tasks
  %callers = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 4
  %others = atomicrmw add ptr %callers, i32 1 monotonic
  %cpus = load i32, ptr @tvmlayers_shared
  %begin = call i64 @tvmlayers_now(ptr %time)
  %calling = call i32 @tvmlayers_calling(i64 %begin)
  %here = add i32 %others, 1
  %competing = call i32 @llvm.smax.i32(i32 %here, i32 %calling)
  %idle = sub i32 %cpus, %competing
  %needed = sub i32 %tasks, 1
  %most = call i32 @llvm.smin.i32(i32 %needed, i32 %idle)
  %any_idle = icmp sgt i32 %most, 0
  %fits = icmp sle i32 %tasks, 256
  %shared_out = and i1 %any_idle, %fits
  br i1 %shared_out, label %ask, label %alone
ask:
  %helpers = call i32 @tvmlayers_helpers(i32 %most, i64 %begin)
  %some = icmp sgt i32 %helpers, 0
  br i1 %some, label %staff, label %alone
staff:
  %workers = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 1
  %have = load atomic i32, ptr %workers acquire, align 4
  %enough = icmp sge i32 %have, %helpers
  br i1 %enough, label %offer, label %hire
hire:
  call void @tvmlayers_hire(i32 %helpers)
  br label %offer
offer:
  %job = call ptr @tvmlayers_job()
  %found = icmp ne ptr %job, null
  br i1 %found, label %fill, label %alone
fill:
  %body_place = getelementptr %job, ptr %job, i64 0, i32 1
  store ptr %body, ptr %body_place
  %data_place = getelementptr %job, ptr %job, i64 0, i32 2
  store ptr %data, ptr %data_place
  %tasks_place = getelementptr %job, ptr %job, i64 0, i32 3
  store i32 %tasks, ptr %tasks_place
  %cpu = call i32 @sched_getcpu()
  %cpu_place = getelementptr %job, ptr %job, i64 0, i32 4
  store i32 %cpu, ptr %cpu_place
  %finished = getelementptr %job, ptr %job, i64 0, i32 6
  store atomic i32 0, ptr %finished monotonic, align 4
  %sleeps = getelementptr %job, ptr %job, i64 0, i32 7
  store atomic i32 0, ptr %sleeps monotonic, align 4
  br label %open
open:
  %w = phi i32 [ 3, %fill ], [ %w_less, %open ]
  %bits = call i64 @tvmlayers_open(i32 %tasks, i32 %w)
  %word = getelementptr i64, ptr %job, i32 %w
  store atomic i64 %bits, ptr %word release, align 8
  %w_less = sub i32 %w, 1
  %opened = icmp eq i32 %w, 0
  br i1 %opened, label %tell, label %open
tell:
  %offers = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 6
  %made = atomicrmw add ptr %offers, i32 1 seq_cst
  %asleep_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 7
  %asleep = load atomic i32, ptr %asleep_place seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  %address = ptrtoint ptr %body to i64
  %hashed = lshr i64 %address, 4
  %site = and i64 %hashed, 63
  %took_place = getelementptr i64, ptr @tvmlayers_took, i64 %site
  %last_place = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 12
  br i1 %any, label %weigh, label %first
weigh:
  ; A sleeping worker comes after some 50 us: for a long call, or when it can stay awake for the next.
  %took = load atomic i64, ptr %took_place monotonic, align 8
  %last = load atomic i64, ptr %last_place monotonic, align 8
  %gap = sub i64 %begin, %last
  %often = icmp slt i64 %gap, 200000
  %unknown = icmp eq i64 %took, 0
  %long = icmp sgt i64 %took, 100000
  %worth = or i1 %unknown, %long
  %pays = or i1 %worth, %often
  br i1 %pays, label %wake, label %first
wake:
  ; The workers whose own tasks there are, where nobody else has use for them.
  %few = icmp ult i32 %helpers, 31
  %is_one = icmp eq i32 %others, 0
  %exactly = and i1 %few, %is_one
  %shift = and i32 %helpers, 31
  %power = shl i32 2, %shift
  %lead = sub i32 %power, 2
  %who = select i1 %exactly, i32 %lead, i32 -1
  call void @tvmlayers_wake(ptr %offers, i32 %helpers, i32 %who)
  br label %first
first:
  %first_done = call i32 %body(i32 0, ptr %group, ptr %data)
  br label %more
more:
  %own = phi i32 [ 1, %first ], [ %own_more, %run ]
  %task = call i32 @tvmlayers_take(ptr %job, i32 256, i1 true)
  %begun = icmp slt i32 %task, 0
  br i1 %begun, label %wait, label %run
run:
  %done = call i32 %body(i32 %task, ptr %group, ptr %data)
  %own_more = add i32 %own, 1
  br label %more
wait:
  %expected = sub i32 %tasks, %own
  %now = load atomic i32, ptr %finished acquire, align 4
  %all = icmp eq i32 %now, %expected
  br i1 %all, label %free, label %watch
watch:
  %seen = call i32 @tvmlayers_spin(ptr %finished, i32 %expected, i1 true, ptr %time)
  %soon = icmp eq i32 %seen, 1
  br i1 %soon, label %free, label %late
late:
  %since = call i64 @tvmlayers_now(ptr %time)
  br label %doze
doze:
  ; The system then has a CPU for a worker that it had put aside.
  %told = atomicrmw xchg ptr %sleeps, i32 1 seq_cst
  %yet = load atomic i32, ptr %finished seq_cst, align 4
  %complete = icmp eq i32 %yet, %expected
  br i1 %complete, label %judge, label %nap
nap:
  call void @tvmlayers_sleep(ptr %finished, i32 %yet, i32 -1)
  br label %doze
judge:
  %then = call i64 @tvmlayers_now(ptr %time)
  %waited = sub i64 %then, %since
  %own_time = sub i64 %since, %begin
  %bearable = call i64 @llvm.smax.i64(i64 %own_time, i64 1000000)
  %too_long = icmp sgt i64 %waited, %bearable
  br i1 %too_long, label %complain, label %free
complain:
  call void @tvmlayers_crowded(i64 %then)
  br label %free
free:
  %used = getelementptr %job, ptr %job, i64 0, i32 8
  store atomic i32 0, ptr %used release, align 4
  %until = call i64 @tvmlayers_now(ptr %time)
  %duration = sub i64 %until, %begin
  store atomic i64 %duration, ptr %took_place monotonic, align 8
  store atomic i64 %until, ptr %last_place monotonic, align 8
  br label %end
alone:
  %i = phi i32 [ 0, %entry ], [ 0, %ask ], [ 0, %offer ], [ %i_next, %alone ]
  %i_done = call i32 %body(i32 %i, ptr %group, ptr %data)
  %i_next = add i32 %i, 1
  %i_more = icmp slt i32 %i_next, %tasks
  br i1 %i_more, label %alone, label %end
end:
  %left = atomicrmw sub ptr %callers, i32 1 monotonic
  %crowded = icmp slt i32 %idle, 0
  br i1 %crowded, label %yield, label %out
yield:
  ; Callers that compete for the CPUs take turns, or each would wait for the time slices of all others.
  %yielded = call i32 @sched_yield()
  br label %out
out:
  ret i32 0
}

; A worker's life: takes tasks of any job; without one it waits for the next offer, awake for a
; while where the last ones came soon, else asleep.
define void @tvmlayers_work(i64 %number) {
entry:
  %group = alloca %group, align 8
  %time = alloca [2 x i64], align 8
  %keen = alloca i32, align 4
  store i32 0, ptr %keen
  store ptr null, ptr %group
  %group_tasks = getelementptr %group, ptr %group, i64 0, i32 1
  %own = trunc i64 %number to i32
  %own_shift = and i32 %own, 31
  %own_bit = shl i32 1, %own_shift
  %offers = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 6
  %asleep = getelementptr %shared, ptr @tvmlayers_shared, i64 0, i32 7
  %named = call i32 (i32, ...) @prctl(i32 15, ptr @tvmlayers_thread_name)
  br label %start
start:
  %known = load atomic i32, ptr %offers acquire, align 4
  br label %look
look:
  %i = phi i64 [ 0, %start ], [ %i_next, %next ]
  %job = getelementptr %job, ptr @tvmlayers_jobs, i64 %i
  %open = call i1 @tvmlayers_is_open(ptr %job)
  br i1 %open, label %place, label %next
place:
  %cpu_place = getelementptr %job, ptr %job, i64 0, i32 4
  %cpu = load atomic i32, ptr %cpu_place monotonic, align 4
  %here = call i32 @sched_getcpu()
  %shared_cpu = icmp eq i32 %here, %cpu
  br i1 %shared_cpu, label %part, label %take
part:
  call void @tvmlayers_part(i32 %cpu)
  br label %take
take:
  %task = call i32 @tvmlayers_take(ptr %job, i32 %own, i1 false)
  %none = icmp slt i32 %task, 0
  br i1 %none, label %next, label %run
run:
  %body_place = getelementptr %job, ptr %job, i64 0, i32 1
  %body = load ptr, ptr %body_place
  %data_place = getelementptr %job, ptr %job, i64 0, i32 2
  %data = load ptr, ptr %data_place
  %tasks_place = getelementptr %job, ptr %job, i64 0, i32 3
  %tasks = load i32, ptr %tasks_place
  store i32 %tasks, ptr %group_tasks
  %done = call i32 %body(i32 %task, ptr %group, ptr %data)
  %finished = getelementptr %job, ptr %job, i64 0, i32 6
  %before = atomicrmw add ptr %finished, i32 1 seq_cst
  %sleeps_place = getelementptr %job, ptr %job, i64 0, i32 7
  %sleeps = load atomic i32, ptr %sleeps_place seq_cst, align 4
  %waiting = icmp ne i32 %sleeps, 0
  br i1 %waiting, label %rouse, label %take
rouse:
  call void @tvmlayers_wake(ptr %finished, i32 1, i32 -1)
  br label %take
next:
  %i_next = add i64 %i, 1
  %more = icmp ult i64 %i_next, 16
  br i1 %more, label %look, label %idle
idle:
  %since = call i64 @tvmlayers_now(ptr %time)
  %mood = load i32, ptr %keen
  %stays = icmp sgt i32 %mood, 0
  br i1 %stays, label %spin, label %rest
spin:
  %seen = call i32 @tvmlayers_spin(ptr %offers, i32 %known, i1 false, ptr %time)
  %offered = icmp eq i32 %seen, 1
  br i1 %offered, label %start, label %disturbed
disturbed:
  ; Whoever was put aside while it waited shares its CPU: it sleeps for the next offers.
  %put_aside = icmp eq i32 %seen, 2
  %new_mood = select i1 %put_aside, i32 -64, i32 0
  store i32 %new_mood, ptr %keen
  br i1 %put_aside, label %tell, label %rest
tell:
  %told = call i64 @tvmlayers_now(ptr %time)
  call void @tvmlayers_crowded(i64 %told)
  br label %rest
rest:
  %one_more = atomicrmw add ptr %asleep, i32 1 seq_cst
  call void @tvmlayers_sleep(ptr %offers, i32 %known, i32 %own_bit)
  %one_less = atomicrmw sub ptr %asleep, i32 1 seq_cst
  %until = call i64 @tvmlayers_now(ptr %time)
  %gap = sub i64 %until, %since
  %short = icmp ult i64 %gap, 200000
  %old = load i32, ptr %keen
  %shy = icmp slt i32 %old, 0
  %calmer = add i32 %old, 1
  %as_short = zext i1 %short to i32
  %next_mood = select i1 %shy, i32 %calmer, i32 %as_short
  store i32 %next_mood, ptr %keen
  br label %start
}
