/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tracepoints, in the order of Kind in kvm/src/trace.rs: an event's place is its number, and its bit in the word that says which
 * are watched.
 */
#ifndef WORLDSWITCH_TRACE_EVENTS_H
#define WORLDSWITCH_TRACE_EVENTS_H

#define WS_EVENTS(X)			\
	X(kvm_entry)			\
	X(kvm_exit)			\
	X(kvm_guest_fault)		\
	X(kvm_access_fault)		\
	X(kvm_irq_line)			\
	X(kvm_mmio_emulate)		\
	X(kvm_unmap_hva_range)		\
	X(kvm_set_spte_hva)		\
	X(kvm_age_hva)			\
	X(kvm_test_age_hva)		\
	X(kvm_set_way_flush)		\
	X(kvm_toggle_cache)		\
	X(kvm_timer_update_irq)		\
	X(kvm_get_timer_map)		\
	X(kvm_timer_save_state)		\
	X(kvm_timer_restore_state)	\
	X(kvm_timer_hrtimer_expire)	\
	X(kvm_timer_emulate)		\
	X(kvm_emulate_cp15_imp)		\
	X(kvm_wfx)			\
	X(kvm_hvc)			\
	X(vgic_update_irq_pending)	\
	X(kvm_mmio)			\
	X(kvm_userspace_exit)		\
	X(kvm_vcpu_wakeup)		\
	X(kvm_halt_poll_ns)		\
	X(kvm_set_irq)			\
	X(kvm_ack_irq)

#define WS_EVENT_NUMBER(event) WS_EVENT_##event,
enum { WS_EVENTS(WS_EVENT_NUMBER) };

/* Called by the kernel when an event's first watcher comes, and when its last has gone. */
#define WS_EVENT_WATCH(event)		\
	int ws_watch_##event(void);	\
	void ws_unwatch_##event(void);
WS_EVENTS(WS_EVENT_WATCH)

#endif
