// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracepoints themselves, and the one way to them from Rust.
 */
#include "shim.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

#define WS_EVENT_NOTE(event)				\
	int ws_watch_##event(void)			\
	{						\
		ws_rust_watch(WS_EVENT_##event, 1);	\
		return 0;				\
	}						\
	void ws_unwatch_##event(void)			\
	{						\
		ws_rust_watch(WS_EVENT_##event, 0);	\
	}
WS_EVENTS(WS_EVENT_NOTE)

#define TELL(event, ...)			\
	case WS_EVENT_##event:			\
		trace_##event(__VA_ARGS__);	\
		break

/* An event by its number. f: its fields, in the order of the tracepoint's. */
void ws_trace(u32 event, const u64 *f)
{
	switch (event) {
	TELL(kvm_entry, f[0]);
	TELL(kvm_exit, f[0], f[1], f[2]);
	TELL(kvm_guest_fault, f[0], f[1], f[2], f[3]);
	TELL(kvm_access_fault, f[0]);
	TELL(kvm_irq_line, f[0], f[1], f[2], f[3]);
	TELL(kvm_mmio_emulate, f[0], f[1], f[2]);
	TELL(kvm_unmap_hva_range, f[0], f[1]);
	TELL(kvm_set_spte_hva, f[0]);
	TELL(kvm_age_hva, f[0], f[1]);
	TELL(kvm_test_age_hva, f[0]);
	TELL(kvm_set_way_flush, f[0], f[1]);
	TELL(kvm_toggle_cache, f[0], f[1], f[2]);
	TELL(kvm_timer_update_irq, f[0], f[1], f[2]);
	TELL(kvm_get_timer_map, f[0], f[1], f[2], f[3]);
	TELL(kvm_timer_save_state, f[0], f[1], f[2]);
	TELL(kvm_timer_restore_state, f[0], f[1], f[2]);
	TELL(kvm_timer_hrtimer_expire, f[0]);
	TELL(kvm_timer_emulate, f[0], f[1]);
	TELL(kvm_emulate_cp15_imp, f[0], f[1], f[2], f[3], f[4], f[5]);
	TELL(kvm_wfx, f[0], f[1]);
	TELL(kvm_hvc, f[0], f[1], f[2]);
	TELL(vgic_update_irq_pending, f[0], f[1], f[2]);
	TELL(kvm_mmio, f[0], f[1], f[2], f[3]);
	TELL(kvm_userspace_exit, f[0], f[1]);
	TELL(kvm_vcpu_wakeup, f[0], f[1], f[2]);
	TELL(kvm_halt_poll_ns, f[0], f[1], f[2], f[3]);
	TELL(kvm_set_irq, f[0], f[1], f[2]);
	TELL(kvm_ack_irq, f[0], f[1]);
	}
}
