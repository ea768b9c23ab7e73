// SPDX-License-Identifier: GPL-2.0-only
/*
 * Locks, and the place where a vCPU's thread sleeps, is woken, kicked out of the guest, and reminded by a timer.
 */
#include <linux/hrtimer.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/wait_bit.h>

#include "shim.h"
#include "trace.h"

/* A zeroed raw_spinlock_t is an open one, unless the kernel was built to debug locks. Rust asks before it relies on the size. */
u32 ws_lock_bytes(void)
{
#if defined(CONFIG_DEBUG_SPINLOCK) || defined(CONFIG_DEBUG_LOCK_ALLOC)
	return ~0U;
#else
	return sizeof(raw_spinlock_t);
#endif
}

u32 ws_spin_lock(void *lock)
{
	unsigned long flags;

	raw_spin_lock_irqsave((raw_spinlock_t *)lock, flags);
	return flags;
}

void ws_spin_unlock(void *lock, u32 flags)
{
	unsigned long saved = flags;

	raw_spin_unlock_irqrestore((raw_spinlock_t *)lock, saved);
}

/*
 * A sleeping lock in one word, so that Rust may move it while it is open (a struct mutex points to itself): 0 open, 1 taken,
 * 2 taken and waited for.
 */
void ws_mutex_lock(u32 *mutex)
{
	if (cmpxchg_acquire(mutex, 0, 1) != 0)
		wait_var_event(mutex, xchg(mutex, 2) == 0);
}

/* Apart, so that the usual way needs no stack. */
static noinline int wait_for_mutex(u32 *mutex)
{
	return wait_var_event_killable(mutex, xchg(mutex, 2) == 0) ? -EINTR : 0;
}

int ws_mutex_lock_killable(u32 *mutex)
{
	return cmpxchg_acquire(mutex, 0, 1) == 0 ? 0 : wait_for_mutex(mutex);
}

void ws_mutex_unlock(u32 *mutex)
{
	if (xchg(mutex, 0) == 2)
		wake_up_var(mutex);
}

struct waiter {
	struct task_struct *sleeper; /* NULL: nobody sleeps here. Read under RCU */
	struct hrtimer timer;
	raw_spinlock_t lock; /* guards task */
	struct task_struct *task;
};

/* The thread may sleep, or run its guest on another CPU than the one that the timer was set on. */
static enum hrtimer_restart timer_fired(struct hrtimer *timer)
{
	struct waiter *waiter = container_of(timer, struct waiter, timer);

	/* It stands for either of the guest's timers; KVM's for the emulated one, which has this number. */
	trace_kvm_timer_hrtimer_expire(0);
	ws_waiter_wake(waiter);
	ws_waiter_kick(waiter);
	return HRTIMER_NORESTART;
}

void *ws_waiter_create(void)
{
	struct waiter *waiter = ws_alloc(sizeof(*waiter));

	if (!waiter)
		return NULL;
	raw_spin_lock_init(&waiter->lock);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 15, 0)
	hrtimer_setup(&waiter->timer, timer_fired, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
#else
	hrtimer_init(&waiter->timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	waiter->timer.function = timer_fired;
#endif
	return waiter;
}

void ws_waiter_destroy(void *memory)
{
	struct waiter *waiter = memory;

	hrtimer_cancel(&waiter->timer);
	if (waiter->task)
		put_task_struct(waiter->task);
	ws_free(waiter);
}

/* The calling thread is the one that runs the vCPU from now on. */
void ws_waiter_adopt(void *memory)
{
	struct waiter *waiter = memory;
	struct task_struct *before;
	unsigned long flags;

	if (READ_ONCE(waiter->task) == current)
		return;
	get_task_struct(current);
	raw_spin_lock_irqsave(&waiter->lock, flags);
	before = waiter->task;
	waiter->task = current;
	raw_spin_unlock_irqrestore(&waiter->lock, flags);
	if (before)
		put_task_struct(before);
}

/*
 * Sleeps until ready() or a signal; says whether it was a signal. ready() is asked before each sleep. Only one thread sleeps here, so
 * that it takes no queue.
 */
u32 ws_waiter_wait(void *memory, u32 (*ready)(const void *), const void *argument)
{
	struct waiter *waiter = memory;
	u32 signal = 0;

	WRITE_ONCE(waiter->sleeper, current);
	for (;;) {
		/* A barrier: who has changed what ready() looks at sees the sleeper, or ready() sees the change. */
		set_current_state(TASK_INTERRUPTIBLE);
		if (ready(argument))
			break;
		if (signal_pending(current)) {
			signal = 1;
			break;
		}
		schedule();
	}
	__set_current_state(TASK_RUNNING);
	WRITE_ONCE(waiter->sleeper, NULL);
	return signal;
}

/*
 * What ready() looks at was changed before. A thread that has just left is woken for nothing; it is there as long as RCU makes its
 * end wait.
 */
void ws_waiter_wake(void *memory)
{
	struct waiter *waiter = memory;
	struct task_struct *sleeper;

	smp_mb();
	rcu_read_lock();
	sleeper = READ_ONCE(waiter->sleeper);
	if (sleeper)
		wake_up_process(sleeper);
	rcu_read_unlock();
}

void ws_waiter_kick(void *memory)
{
	struct waiter *waiter = memory;
	unsigned long flags;

	raw_spin_lock_irqsave(&waiter->lock, flags);
	if (waiter->task)
		kick_process(waiter->task);
	raw_spin_unlock_irqrestore(&waiter->lock, flags);
}

void ws_waiter_arm(void *memory, u64 nanoseconds)
{
	struct waiter *waiter = memory;

	hrtimer_start(&waiter->timer, ns_to_ktime(nanoseconds), HRTIMER_MODE_REL);
}

/* Called with interrupts off, too, where a handler under way cannot be waited for: it then wakes once for nothing. */
void ws_waiter_disarm(void *memory)
{
	struct waiter *waiter = memory;

	hrtimer_try_to_cancel(&waiter->timer);
}
