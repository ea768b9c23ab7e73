/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tracepoints' fields and formats, as tools know them from KVM/ARM of Linux 5.6. trace.c makes them.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

#if !defined(WORLDSWITCH_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define WORLDSWITCH_TRACE_H

#include <linux/tracepoint.h>

#include "trace_events.h"

/* One whose watchers are noted, so that Rust tells of it only if there are any. */
#define WS_TRACE_EVENT(name, proto, args, fields, assign, print) \
	TRACE_EVENT_FN(name, PARAMS(proto), PARAMS(args), PARAMS(fields), PARAMS(assign), PARAMS(print), \
		       ws_watch_##name, ws_unwatch_##name)

#define WS_EXCEPTIONS			\
	{ 0, "RESET" },			\
	{ 1, "UNDEFINED" },		\
	{ 2, "SOFTWARE" },		\
	{ 3, "PREF_ABORT" },		\
	{ 4, "DATA_ABORT" },		\
	{ 5, "IRQ" },			\
	{ 6, "FIQ" },			\
	{ 7, "HVC" }

/* HSR.EC, by the names of ARM DDI 0406C.d, B3.13.6. */
#define WS_CLASSES			\
	{ 0x00, "UNKNOWN" },		\
	{ 0x01, "WFI" },		\
	{ 0x03, "CP15_32" },		\
	{ 0x04, "CP15_64" },		\
	{ 0x05, "CP14_MR" },		\
	{ 0x06, "CP14_LS" },		\
	{ 0x07, "CP_0_13" },		\
	{ 0x08, "CP10_ID" },		\
	{ 0x09, "JAZELLE" },		\
	{ 0x0a, "BXJ" },		\
	{ 0x0c, "CP14_64" },		\
	{ 0x11, "SVC_HYP" },		\
	{ 0x12, "HVC" },		\
	{ 0x13, "SMC" },		\
	{ 0x20, "IABT" },		\
	{ 0x21, "IABT_HYP" },		\
	{ 0x24, "DABT" },		\
	{ 0x25, "DABT_HYP" }

#define WS_EXIT_REASONS			\
	{ 0, "KVM_EXIT_UNKNOWN" },	\
	{ 1, "KVM_EXIT_EXCEPTION" },	\
	{ 3, "KVM_EXIT_HYPERCALL" },	\
	{ 4, "KVM_EXIT_DEBUG" },	\
	{ 6, "KVM_EXIT_MMIO" },		\
	{ 7, "KVM_EXIT_IRQ_WINDOW_OPEN" }, \
	{ 8, "KVM_EXIT_SHUTDOWN" },	\
	{ 9, "KVM_EXIT_FAIL_ENTRY" },	\
	{ 10, "KVM_EXIT_INTR" },	\
	{ 17, "KVM_EXIT_INTERNAL_ERROR" }, \
	{ 24, "KVM_EXIT_SYSTEM_EVENT" }, \
	{ 28, "KVM_EXIT_ARM_NISV" }

WS_TRACE_EVENT(kvm_entry,
	TP_PROTO(unsigned long vcpu_pc),
	TP_ARGS(vcpu_pc),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
	),
	TP_printk("PC: 0x%08lx", __entry->vcpu_pc)
);

WS_TRACE_EVENT(kvm_exit,
	TP_PROTO(int ret, unsigned int esr_ec, unsigned long vcpu_pc),
	TP_ARGS(ret, esr_ec, vcpu_pc),
	TP_STRUCT__entry(
		__field(int, ret)
		__field(unsigned int, esr_ec)
		__field(unsigned long, vcpu_pc)
	),
	TP_fast_assign(
		__entry->ret = ret;
		__entry->esr_ec = esr_ec;
		__entry->vcpu_pc = vcpu_pc;
	),
	TP_printk("%s: HSR_EC: 0x%04x (%s), PC: 0x%08lx",
		  __print_symbolic(__entry->ret, WS_EXCEPTIONS), __entry->esr_ec,
		  __print_symbolic(__entry->esr_ec, WS_CLASSES), __entry->vcpu_pc)
);

WS_TRACE_EVENT(kvm_guest_fault,
	TP_PROTO(unsigned long vcpu_pc, unsigned long hsr, unsigned long hxfar, unsigned long long ipa),
	TP_ARGS(vcpu_pc, hsr, hxfar, ipa),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
		__field(unsigned long, hsr)
		__field(unsigned long, hxfar)
		__field(unsigned long long, ipa)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
		__entry->hsr = hsr;
		__entry->hxfar = hxfar;
		__entry->ipa = ipa;
	),
	TP_printk("ipa %#llx, hsr %#08lx, hxfar %#08lx, pc %#08lx",
		  __entry->ipa, __entry->hsr, __entry->hxfar, __entry->vcpu_pc)
);

WS_TRACE_EVENT(kvm_access_fault,
	TP_PROTO(unsigned long ipa),
	TP_ARGS(ipa),
	TP_STRUCT__entry(
		__field(unsigned long, ipa)
	),
	TP_fast_assign(
		__entry->ipa = ipa;
	),
	TP_printk("IPA: %lx", __entry->ipa)
);

WS_TRACE_EVENT(kvm_irq_line,
	TP_PROTO(unsigned int type, int vcpu_idx, int irq_num, int level),
	TP_ARGS(type, vcpu_idx, irq_num, level),
	TP_STRUCT__entry(
		__field(unsigned int, type)
		__field(int, vcpu_idx)
		__field(int, irq_num)
		__field(int, level)
	),
	TP_fast_assign(
		__entry->type = type;
		__entry->vcpu_idx = vcpu_idx;
		__entry->irq_num = irq_num;
		__entry->level = level;
	),
	TP_printk("Inject %s interrupt (%d), vcpu->idx: %d, num: %d, level: %d",
		  __print_symbolic(__entry->type, { 0, "CPU" }, { 1, "VGIC SPI" }, { 2, "VGIC PPI" }),
		  __entry->type, __entry->vcpu_idx, __entry->irq_num, __entry->level)
);

WS_TRACE_EVENT(kvm_mmio_emulate,
	TP_PROTO(unsigned long vcpu_pc, unsigned long instr, unsigned long cpsr),
	TP_ARGS(vcpu_pc, instr, cpsr),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
		__field(unsigned long, instr)
		__field(unsigned long, cpsr)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
		__entry->instr = instr;
		__entry->cpsr = cpsr;
	),
	TP_printk("Emulate MMIO at: 0x%08lx (instr: %08lx, cpsr: %08lx)",
		  __entry->vcpu_pc, __entry->instr, __entry->cpsr)
);

WS_TRACE_EVENT(kvm_unmap_hva_range,
	TP_PROTO(unsigned long start, unsigned long end),
	TP_ARGS(start, end),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("mmu notifier unmap range: %#08lx -- %#08lx", __entry->start, __entry->end)
);

WS_TRACE_EVENT(kvm_set_spte_hva,
	TP_PROTO(unsigned long hva),
	TP_ARGS(hva),
	TP_STRUCT__entry(
		__field(unsigned long, hva)
	),
	TP_fast_assign(
		__entry->hva = hva;
	),
	TP_printk("mmu notifier set pte hva: %#08lx", __entry->hva)
);

WS_TRACE_EVENT(kvm_age_hva,
	TP_PROTO(unsigned long start, unsigned long end),
	TP_ARGS(start, end),
	TP_STRUCT__entry(
		__field(unsigned long, start)
		__field(unsigned long, end)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("mmu notifier age hva: %#08lx -- %#08lx", __entry->start, __entry->end)
);

WS_TRACE_EVENT(kvm_test_age_hva,
	TP_PROTO(unsigned long hva),
	TP_ARGS(hva),
	TP_STRUCT__entry(
		__field(unsigned long, hva)
	),
	TP_fast_assign(
		__entry->hva = hva;
	),
	TP_printk("mmu notifier test age hva: %#08lx", __entry->hva)
);

WS_TRACE_EVENT(kvm_set_way_flush,
	TP_PROTO(unsigned long vcpu_pc, bool cache),
	TP_ARGS(vcpu_pc, cache),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
		__field(bool, cache)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
		__entry->cache = cache;
	),
	TP_printk("S/W flush at 0x%016lx (cache %s)", __entry->vcpu_pc, __entry->cache ? "on" : "off")
);

WS_TRACE_EVENT(kvm_toggle_cache,
	TP_PROTO(unsigned long vcpu_pc, bool was, bool now),
	TP_ARGS(vcpu_pc, was, now),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
		__field(bool, was)
		__field(bool, now)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
		__entry->was = was;
		__entry->now = now;
	),
	TP_printk("VM op at 0x%016lx (cache was %s, now %s)",
		  __entry->vcpu_pc, __entry->was ? "on" : "off", __entry->now ? "on" : "off")
);

WS_TRACE_EVENT(kvm_timer_update_irq,
	TP_PROTO(unsigned long vcpu_id, __u32 irq, int level),
	TP_ARGS(vcpu_id, irq, level),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_id)
		__field(__u32, irq)
		__field(int, level)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->irq = irq;
		__entry->level = level;
	),
	TP_printk("VCPU: %ld, IRQ %d, level %d", __entry->vcpu_id, __entry->irq, __entry->level)
);

WS_TRACE_EVENT(kvm_get_timer_map,
	TP_PROTO(unsigned long vcpu_id, int direct_vtimer, int direct_ptimer, int emul_ptimer),
	TP_ARGS(vcpu_id, direct_vtimer, direct_ptimer, emul_ptimer),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_id)
		__field(int, direct_vtimer)
		__field(int, direct_ptimer)
		__field(int, emul_ptimer)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->direct_vtimer = direct_vtimer;
		__entry->direct_ptimer = direct_ptimer;
		__entry->emul_ptimer = emul_ptimer;
	),
	TP_printk("VCPU: %ld, dv: %d, dp: %d, ep: %d",
		  __entry->vcpu_id, __entry->direct_vtimer, __entry->direct_ptimer, __entry->emul_ptimer)
);

WS_TRACE_EVENT(kvm_timer_save_state,
	TP_PROTO(unsigned long ctl, unsigned long long cval, int timer_idx),
	TP_ARGS(ctl, cval, timer_idx),
	TP_STRUCT__entry(
		__field(unsigned long, ctl)
		__field(unsigned long long, cval)
		__field(int, timer_idx)
	),
	TP_fast_assign(
		__entry->ctl = ctl;
		__entry->cval = cval;
		__entry->timer_idx = timer_idx;
	),
	TP_printk("   CTL: %#08lx CVAL: %#16llx arch_timer_ctx_index: %d",
		  __entry->ctl, __entry->cval, __entry->timer_idx)
);

WS_TRACE_EVENT(kvm_timer_restore_state,
	TP_PROTO(unsigned long ctl, unsigned long long cval, int timer_idx),
	TP_ARGS(ctl, cval, timer_idx),
	TP_STRUCT__entry(
		__field(unsigned long, ctl)
		__field(unsigned long long, cval)
		__field(int, timer_idx)
	),
	TP_fast_assign(
		__entry->ctl = ctl;
		__entry->cval = cval;
		__entry->timer_idx = timer_idx;
	),
	TP_printk("CTL: %#08lx CVAL: %#16llx arch_timer_ctx_index: %d",
		  __entry->ctl, __entry->cval, __entry->timer_idx)
);

WS_TRACE_EVENT(kvm_timer_hrtimer_expire,
	TP_PROTO(int timer_idx),
	TP_ARGS(timer_idx),
	TP_STRUCT__entry(
		__field(int, timer_idx)
	),
	TP_fast_assign(
		__entry->timer_idx = timer_idx;
	),
	TP_printk("arch_timer_ctx_index: %d", __entry->timer_idx)
);

WS_TRACE_EVENT(kvm_timer_emulate,
	TP_PROTO(int timer_idx, bool should_fire),
	TP_ARGS(timer_idx, should_fire),
	TP_STRUCT__entry(
		__field(int, timer_idx)
		__field(bool, should_fire)
	),
	TP_fast_assign(
		__entry->timer_idx = timer_idx;
		__entry->should_fire = should_fire;
	),
	TP_printk("arch_timer_ctx_index: %d (should_fire: %d)", __entry->timer_idx, __entry->should_fire)
);

WS_TRACE_EVENT(kvm_emulate_cp15_imp,
	TP_PROTO(unsigned long Op1, unsigned long Rt1, unsigned long CRn, unsigned long CRm, unsigned long Op2,
		 bool is_write),
	TP_ARGS(Op1, Rt1, CRn, CRm, Op2, is_write),
	TP_STRUCT__entry(
		__field(unsigned int, Op1)
		__field(unsigned int, Rt1)
		__field(unsigned int, CRn)
		__field(unsigned int, CRm)
		__field(unsigned int, Op2)
		__field(bool, is_write)
	),
	TP_fast_assign(
		__entry->Op1 = Op1;
		__entry->Rt1 = Rt1;
		__entry->CRn = CRn;
		__entry->CRm = CRm;
		__entry->Op2 = Op2;
		__entry->is_write = is_write;
	),
	TP_printk("Implementation defined CP15: %s\tp15, %u, r%u, c%u, c%u, %u",
		  __entry->is_write ? "mcr" : "mrc",
		  __entry->Op1, __entry->Rt1, __entry->CRn, __entry->CRm, __entry->Op2)
);

WS_TRACE_EVENT(kvm_wfx,
	TP_PROTO(unsigned long vcpu_pc, bool is_wfe),
	TP_ARGS(vcpu_pc, is_wfe),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
		__field(bool, is_wfe)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
		__entry->is_wfe = is_wfe;
	),
	TP_printk("guest executed wf%c at: 0x%08lx", __entry->is_wfe ? 'e' : 'i', __entry->vcpu_pc)
);

WS_TRACE_EVENT(kvm_hvc,
	TP_PROTO(unsigned long vcpu_pc, unsigned long r0, unsigned long imm),
	TP_ARGS(vcpu_pc, r0, imm),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_pc)
		__field(unsigned long, r0)
		__field(unsigned long, imm)
	),
	TP_fast_assign(
		__entry->vcpu_pc = vcpu_pc;
		__entry->r0 = r0;
		__entry->imm = imm;
	),
	TP_printk("HVC at 0x%08lx (r0: 0x%08lx, imm: 0x%lx)", __entry->vcpu_pc, __entry->r0, __entry->imm)
);

WS_TRACE_EVENT(vgic_update_irq_pending,
	TP_PROTO(unsigned long vcpu_id, __u32 irq, bool level),
	TP_ARGS(vcpu_id, irq, level),
	TP_STRUCT__entry(
		__field(unsigned long, vcpu_id)
		__field(__u32, irq)
		__field(bool, level)
	),
	TP_fast_assign(
		__entry->vcpu_id = vcpu_id;
		__entry->irq = irq;
		__entry->level = level;
	),
	TP_printk("VCPU: %ld, IRQ %d, level: %d", __entry->vcpu_id, __entry->irq, __entry->level)
);

WS_TRACE_EVENT(kvm_mmio,
	TP_PROTO(int type, int len, u64 gpa, u64 val),
	TP_ARGS(type, len, gpa, val),
	TP_STRUCT__entry(
		__field(u32, type)
		__field(u32, len)
		__field(u64, gpa)
		__field(u64, val)
	),
	TP_fast_assign(
		__entry->type = type;
		__entry->len = len;
		__entry->gpa = gpa;
		__entry->val = val;
	),
	TP_printk("mmio %s len %u gpa 0x%llx val 0x%llx",
		  __print_symbolic(__entry->type, { 0, "unsatisfied-read" }, { 1, "read" }, { 2, "write" }),
		  __entry->len, __entry->gpa, __entry->val)
);

WS_TRACE_EVENT(kvm_userspace_exit,
	TP_PROTO(__u32 reason, int errno),
	TP_ARGS(reason, errno),
	TP_STRUCT__entry(
		__field(__u32, reason)
		__field(int, errno)
	),
	TP_fast_assign(
		__entry->reason = reason;
		__entry->errno = errno;
	),
	TP_printk("reason %s (%d)",
		  __entry->errno < 0 ? (__entry->errno == -EINTR ? "restart" : "error")
				     : __print_symbolic(__entry->reason, WS_EXIT_REASONS),
		  __entry->errno < 0 ? -__entry->errno : __entry->reason)
);

WS_TRACE_EVENT(kvm_vcpu_wakeup,
	TP_PROTO(__u64 ns, bool waited, bool valid),
	TP_ARGS(ns, waited, valid),
	TP_STRUCT__entry(
		__field(__u64, ns)
		__field(bool, waited)
		__field(bool, valid)
	),
	TP_fast_assign(
		__entry->ns = ns;
		__entry->waited = waited;
		__entry->valid = valid;
	),
	TP_printk("%s time %lld ns, polling %s",
		  __entry->waited ? "wait" : "poll", __entry->ns, __entry->valid ? "valid" : "invalid")
);

WS_TRACE_EVENT(kvm_halt_poll_ns,
	TP_PROTO(bool grow, unsigned int vcpu_id, unsigned int new, unsigned int old),
	TP_ARGS(grow, vcpu_id, new, old),
	TP_STRUCT__entry(
		__field(bool, grow)
		__field(unsigned int, vcpu_id)
		__field(unsigned int, new)
		__field(unsigned int, old)
	),
	TP_fast_assign(
		__entry->grow = grow;
		__entry->vcpu_id = vcpu_id;
		__entry->new = new;
		__entry->old = old;
	),
	TP_printk("vcpu %u: halt_poll_ns %u (%s %u)",
		  __entry->vcpu_id, __entry->new, __entry->grow ? "grow" : "shrink", __entry->old)
);

WS_TRACE_EVENT(kvm_set_irq,
	TP_PROTO(unsigned int gsi, int level, int irq_source_id),
	TP_ARGS(gsi, level, irq_source_id),
	TP_STRUCT__entry(
		__field(unsigned int, gsi)
		__field(int, level)
		__field(int, irq_source_id)
	),
	TP_fast_assign(
		__entry->gsi = gsi;
		__entry->level = level;
		__entry->irq_source_id = irq_source_id;
	),
	TP_printk("gsi %u level %d source %d", __entry->gsi, __entry->level, __entry->irq_source_id)
);

WS_TRACE_EVENT(kvm_ack_irq,
	TP_PROTO(unsigned int irqchip, unsigned int pin),
	TP_ARGS(irqchip, pin),
	TP_STRUCT__entry(
		__field(unsigned int, irqchip)
		__field(unsigned int, pin)
	),
	TP_fast_assign(
		__entry->irqchip = irqchip;
		__entry->pin = pin;
	),
	TP_printk("irqchip %u pin %u", __entry->irqchip, __entry->pin)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
