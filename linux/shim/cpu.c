// SPDX-License-Identifier: GPL-2.0-only
/*
 * CPUs: this one, all of them, and when they come and go.
 *
 * Hyp mode is taken on each CPU as it comes online or wakes, and given back before it goes offline, sleeps, or the system ends.
 */
#include <linux/arm-smccc.h>
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/cpu_pm.h>
#include <linux/irqflags.h>
#include <linux/moduleparam.h>
#include <linux/preempt.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/smp.h>

#include "shim.h"

u32 ws_cpu(void)
{
	return smp_processor_id();
}

u32 ws_cpus(void)
{
	return nr_cpu_ids;
}

static bool firmware_hardening;

module_param(firmware_hardening, bool, 0444);
MODULE_PARM_DESC(firmware_hardening, "has firmware empty the branch predictor (SMCCC_ARCH_WORKAROUND_1) on every core, whether there is such firmware or not");

/*
 * Whether firmware empties branch predictors, as enum FirmwareHardening of hyp-abi. It answers on any core whether it knows the call; which
 * cores want it is ours to say (SMCCC 1.1, 7.5).
 */
u32 ws_firmware_hardening(void)
{
	struct arm_smccc_res answer;

	if (firmware_hardening)
		return 2;
	/* A kernel without PSCI has no such firmware. */
	if (!IS_ENABLED(CONFIG_ARM_PSCI_FW) || arm_smccc_1_1_get_conduit() != SMCCC_CONDUIT_SMC)
		return 0;
	arm_smccc_1_1_smc(ARM_SMCCC_ARCH_FEATURES_FUNC_ID, ARM_SMCCC_ARCH_WORKAROUND_1, &answer);
	return (s32)answer.a0 >= 0;
}

u32 ws_online_cpus(void)
{
	return num_online_cpus();
}

u32 ws_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

void ws_irq_restore(u32 flags)
{
	unsigned long saved = flags;

	local_irq_restore(saved);
}

/*
 * Around a guest: IRQs and FIQs are off, and a tick that comes meanwhile counts as the guest's time. It is taken as interrupts go on,
 * before the thread's own time goes on.
 */
u32 ws_guest_begins(void)
{
	unsigned long flags;

	local_irq_save(flags);
	local_fiq_disable();
	current->flags |= PF_VCPU;
	return flags;
}

void ws_guest_ends(u32 flags)
{
	ws_irq_restore(flags);
	current->flags &= ~PF_VCPU;
}

/*
 * Whether the kernel has put off work until the thread's way to user mode, as recent schedulers do with a thread whose cgroup has used
 * up its cpu.max. Before 5.10.162 a call could not be made to begin again so that a tracer does not undo it; nothing is put off there
 * that cannot wait.
 */
u32 ws_work_pending(void)
{
#ifdef TIF_NOTIFY_SIGNAL
	return READ_ONCE(current->task_works) != NULL;
#else
	return 0;
#endif
}

/* Has a call that returns ERESTARTNOHAND begin again, once the work is done, unless a signal's handler is to run. */
void ws_return_to_work(void)
{
#ifdef TIF_NOTIFY_SIGNAL
	set_thread_flag(TIF_NOTIFY_SIGNAL);
#endif
}

/* Whether the thread is wanted elsewhere: a signal, such work, or another thread's turn. */
u32 ws_must_stop(void)
{
	return signal_pending(current) || ws_work_pending() || need_resched();
}

u32 ws_signal_pending(void)
{
	return signal_pending(current) != 0;
}

/*
 * To RCU a guest is as good as user mode: nothing of the kernel's is held when it is left, with interrupts off. A vCPU that neither
 * sleeps nor returns would hold up its grace periods otherwise, until RCU asks for the CPU.
 */
void ws_note_quiescent(void)
{
	rcu_note_context_switch(false);
}

void ws_yield(void)
{
	cond_resched();
}

void ws_on_each_cpu(void (*function)(void *), void *argument)
{
	on_each_cpu(function, argument, 1);
}

static int cpu_comes(unsigned int cpu)
{
	unsigned long flags;
	int error;

	local_irq_save(flags);
	error = ws_rust_cpu_comes();
	local_irq_restore(flags);
	if (!error)
		ws_interrupts_enable_here();
	return error;
}

static int cpu_goes(unsigned int cpu)
{
	unsigned long flags;

	ws_interrupts_disable_here();
	local_irq_save(flags);
	ws_rust_cpu_goes();
	local_irq_restore(flags);
	return 0;
}

/* Called with interrupts off. */
static int cpu_sleeps(struct notifier_block *block, unsigned long event, void *unused)
{
	switch (event) {
	case CPU_PM_ENTER:
		ws_rust_cpu_sleeps();
		return NOTIFY_OK;
	case CPU_PM_ENTER_FAILED:
	case CPU_PM_EXIT:
		ws_rust_cpu_wakes();
		return NOTIFY_OK;
	}
	return NOTIFY_DONE;
}

static void give_back_here(void *unused)
{
	ws_rust_cpu_goes();
}

static int system_ends(struct notifier_block *block, unsigned long event, void *unused)
{
	ws_rust_system_ends();
	on_each_cpu(give_back_here, NULL, 1);
	return NOTIFY_OK;
}

static struct notifier_block cpu_sleeps_block = { .notifier_call = cpu_sleeps };
static struct notifier_block system_ends_block = { .notifier_call = system_ends };
static int hotplug_state;

/* Takes Hyp mode on every CPU that is online, and on those that will be. On failure nothing stays. */
int ws_cpu_events_register(void)
{
	int error = cpu_pm_register_notifier(&cpu_sleeps_block);

	if (error)
		return error;
	error = register_reboot_notifier(&system_ends_block);
	if (error)
		goto no_reboot;
	hotplug_state = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "kvm/worldswitch:online", cpu_comes, cpu_goes);
	if (hotplug_state < 0) {
		error = hotplug_state;
		goto no_hotplug;
	}
	return 0;
no_hotplug:
	unregister_reboot_notifier(&system_ends_block);
no_reboot:
	cpu_pm_unregister_notifier(&cpu_sleeps_block);
	return error;
}

void ws_cpu_events_unregister(void)
{
	cpuhp_remove_state(hotplug_state);
	unregister_reboot_notifier(&system_ends_block);
	cpu_pm_unregister_notifier(&cpu_sleeps_block);
}

/* The mask of KVM_SET_SIGNAL_MASK for the time of one KVM_RUN, as sigprocmask and kvm_sigset_activate have it. */
void ws_sigmask_set(const void *sigset)
{
	sigset_t set;

	memcpy(&set, sigset, sizeof(set));
	/* sigprocmask() would block even these. */
	sigdelsetmask(&set, sigmask(SIGKILL) | sigmask(SIGSTOP));
	sigprocmask(SIG_SETMASK, &set, &current->real_blocked);
}

/*
 * For a call that begins again: the thread's own mask is back when it does. Until then no handler runs that the call's mask keeps out,
 * and none that the thread's own does.
 */
void ws_sigmask_restore_later(void)
{
	sigset_t both;

	sigorsets(&both, &current->blocked, &current->real_blocked);
	current->saved_sigmask = current->real_blocked;
	sigemptyset(&current->real_blocked);
	sigprocmask(SIG_SETMASK, &both, NULL);
	set_restore_sigmask();
}

void ws_sigmask_restore(void)
{
	sigprocmask(SIG_SETMASK, &current->real_blocked, NULL);
	sigemptyset(&current->real_blocked);
}
