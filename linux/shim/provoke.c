// SPDX-License-Identifier: GPL-2.0-only
/*
 * Parameters that make happen what never should, so that tests can see it dealt with.
 */
#include <linux/kernel.h>
#include <linux/moduleparam.h>

#include "shim.h"

static int provoke(const char *text, const struct kernel_param *parameter)
{
	unsigned int kind;
	int error = kstrtouint(text, 0, &kind);

	return error ? error : ws_rust_provoke(kind);
}

static const struct kernel_param_ops provoke_operations = { .set = provoke };

module_param_cb(provoke_hyp_panic, &provoke_operations, NULL, 0200);
MODULE_PARM_DESC(provoke_hyp_panic,
		 "makes Hyp mode fail at the next entry into a guest, whose vCPU dies (1 undefined instruction, 2 HVC, 3 prefetch abort, 4 data abort, 5 stack overflow, 6 interrupt, 7 FIQ; 0 disarms)");

static int set_short_exit_traps(const char *text, const struct kernel_param *parameter)
{
	bool on;
	int error = kstrtobool(text, &on);

	if (!error)
		ws_rust_set_short_exit_traps(on);
	return error;
}

static int get_short_exit_traps(char *text, const struct kernel_param *parameter)
{
	return sprintf(text, "%u\n", ws_rust_short_exit_traps());
}

static const struct kernel_param_ops short_exit_traps_operations = {
	.set = set_short_exit_traps,
	.get = get_short_exit_traps,
};

module_param_cb(short_exit_traps, &short_exit_traps_operations, NULL, 0600);
MODULE_PARM_DESC(short_exit_traps,
		 "has the kernel touch the physical timer in the midst of short exits, where that traps to Hyp mode; reads as how often it did");
