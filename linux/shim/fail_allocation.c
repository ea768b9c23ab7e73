// SPDX-License-Identifier: GPL-2.0-only
/*
 * The parameter fail_allocation: has one allocation of the module's fail, to see what comes of it. Debian's kernels have no fault
 * injection of their own.
 */
#include <linux/atomic.h>
#include <linux/moduleparam.h>
#include <linux/pid.h>
#include <linux/sched.h>

#include "shim.h"

/* How many allocations there are to that one, itself included; 0: none fails. */
static atomic_t to_failure;
/* The process whose allocations count: the one that asked for it. */
static pid_t asker;

/* Asked by each place that allocates, first. */
bool ws_allocation_fails(void)
{
	if (likely(!atomic_read(&to_failure)))
		return false;
	return READ_ONCE(asker) == task_tgid_nr(current) && atomic_dec_if_positive(&to_failure) == 0;
}

static int set_to_failure(const char *text, const struct kernel_param *parameter)
{
	int count;
	int error = kstrtoint(text, 0, &count);

	if (error || count < 0)
		return -EINVAL;
	atomic_set(&to_failure, 0);
	WRITE_ONCE(asker, task_tgid_nr(current));
	atomic_set(&to_failure, count);
	return 0;
}

static int get_to_failure(char *text, const struct kernel_param *parameter)
{
	return sprintf(text, "%d\n", atomic_read(&to_failure));
}

static const struct kernel_param_ops to_failure_operations = { .set = set_to_failure, .get = get_to_failure };

module_param_cb(fail_allocation, &to_failure_operations, NULL, 0600);
MODULE_PARM_DESC(fail_allocation,
		 "N: the N-th allocation from now for the process that writes this fails; reads as how many there are to it (default 0: none; for tests)");
