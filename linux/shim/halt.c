// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a vCPU does where its guest waits, other than sleep: the parameters (those of polling are KVM's), and whether the CPU has
 * anything else to do.
 */
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sched/stat.h>

#include "shim.h"

static unsigned int halt_poll_ns = 500000;

module_param(halt_poll_ns, uint, 0644);
MODULE_PARM_DESC(halt_poll_ns, "for how many nanoseconds at most a waiting vCPU polls before it sleeps (default 500000; 0: not at all)");

static unsigned int halt_poll_ns_grow = 2;

module_param(halt_poll_ns_grow, uint, 0644);
MODULE_PARM_DESC(halt_poll_ns_grow, "what that time is multiplied by where longer would do (default 2; 0: it does not grow)");

static unsigned int halt_poll_ns_grow_start = 10000;

module_param(halt_poll_ns_grow_start, uint, 0644);
MODULE_PARM_DESC(halt_poll_ns_grow_start, "where it begins (default 10000)");

static unsigned int halt_poll_ns_shrink;

module_param(halt_poll_ns_shrink, uint, 0644);
MODULE_PARM_DESC(halt_poll_ns_shrink, "what it is divided by where no time would do (default 0: it becomes 0)");

void ws_halt_poll(u32 *longest, u32 *grow, u32 *grow_start, u32 *shrink)
{
	*longest = READ_ONCE(halt_poll_ns);
	*grow = READ_ONCE(halt_poll_ns_grow);
	*grow_start = READ_ONCE(halt_poll_ns_grow_start);
	*shrink = READ_ONCE(halt_poll_ns_shrink);
}

static unsigned int halt_rest_ns = 500000;

module_param(halt_rest_ns, uint, 0644);
MODULE_PARM_DESC(halt_rest_ns, "after a wait of at most so many nanoseconds a vCPU's next ones do not exit (default 500000; 0: all do)");

u32 ws_halt_rest(void)
{
	return READ_ONCE(halt_rest_ns);
}

u32 ws_is_alone(void)
{
	return single_task_running();
}

/* single_task_running() looks at the CPU that it happens to run on, and may be wrong if the thread is moved: it then polls a turn longer. */
u32 ws_may_poll(void)
{
	return single_task_running() && !need_resched();
}
