// SPDX-License-Identifier: GPL-2.0-only
//! Events for people who watch guests run: KVM's tracepoints, by its names and with its fields.
//!
//! The host says which kinds of event somebody watches ([`Host::watched`]); [`note`] passes on an event only if its kind is among
//! them. Nobody watching, that is a load, a test and a branch, and not even that on the way into a guest and out of it: a stay
//! looks once.
//!
//! While anything is watched, every exit is seen: Hyp mode answers nothing by itself, and no exit is short. So no event is told
//! while a part of a guest's state is in the hardware, where the kernel's tracing, which may do a lot, could meet it.
//!
//! Source: trace.h and vgic/trace.h of virt/kvm/arm and arch/arm/kvm, and include/trace/events/kvm.h of Linux 5.6.

use crate::host::Host;
use arch::fault::FaultStatus;
use hyp_abi::context::{ExitCode, VcpuContext};

/// Kinds of event that are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watched(u32);

impl Watched {
    /// Of the word in which bit n stands for [`Kind`] n.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether there are any.
    #[inline(always)]
    pub const fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether this one is.
    #[inline(always)]
    pub const fn has(self, kind: Kind) -> bool {
        self.0 >> kind as u32 & 1 != 0
    }
}

/// How many fields an event has at most.
pub const FIELDS: usize = 6;

/// The emulated physical timer's index in KVM's events.
pub const PHYSICAL_TIMER: u64 = 0;
/// The virtual timer's.
pub const VIRTUAL_TIMER: u64 = 1;

/// What the kernel calls an exit for a trap to Hyp mode, in `kvm_exit`.
const EXCEPTION_HVC: u64 = 7;
/// The same for an interrupt.
const EXCEPTION_IRQ: u64 = 5;

/// Makes [`Kind`] and [`Event`] of one list. Fields are numbers, in the order of the tracepoint's.
macro_rules! events {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),* })*) => {
        /// A kind of event. The shim's list (`trace_events.h`) has the same order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
        }

        /// Something that happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: u64),* },)*
        }

        impl Event {
            /// Its kind.
            #[inline(always)]
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$name { .. } => Kind::$name,)*
                }
            }

            /// Its fields in their order, zeros behind them.
            pub fn fields(&self) -> [u64; FIELDS] {
                let mut all = [0; FIELDS];
                match *self {
                    $(Self::$name { $($field),* } => fill(&mut all, &[$($field),*]),)*
                }
                all
            }
        }
    };
}

fn fill(all: &mut [u64; FIELDS], fields: &[u64]) {
    for (place, field) in all.iter_mut().zip(fields) {
        *place = *field;
    }
}

events! {
    /// kvm_entry: the guest is entered.
    Entry { /** Where it goes on. */ pc }
    /// kvm_exit: it was left.
    Exit { /** What exception it was: KVM's number. */ exception, /** HSR.EC of a trap. */ class, /** Where. */ pc }
    /// kvm_guest_fault: a stage-2 abort.
    GuestFault { /** Where. */ pc, /** Its syndrome. */ hsr, /** The virtual address. */ far, /** The guest's physical address. */ ipa }
    /// kvm_access_fault: one for an access flag that was clear.
    AccessFault { /** Where to. */ ipa }
    /// kvm_irq_line: KVM_IRQ_LINE.
    IrqLine { /** CPU, SPI or PPI, by KVM's numbers. */ kind, /** Whose. */ vcpu, /** Which. */ number, /** How it is driven. */ level }
    /// kvm_mmio_emulate: a load or store that its syndrome does not describe is read.
    MmioEmulate { /** Where. */ pc, /** Its encoding. */ instruction, /** The mode and state. */ cpsr }
    /// kvm_unmap_hva_range: the process's memory changes.
    UnmapRange { /** From. */ start, /** To. */ end }
    /// kvm_set_spte_hva: the host replaced a page by another. KVM's kernels said so; here it shows as unmapped and faulted in anew.
    SetPte { /** Where. */ hva }
    /// kvm_age_hva: the host asks what is in use.
    Age { /** From. */ start, /** To. */ end }
    /// kvm_test_age_hva: the same of a page, and nothing changes.
    TestAge { /** Where. */ hva }
    /// kvm_set_way_flush: all memory is flushed for cache maintenance by set and way.
    SetWayFlush { /** Where. */ pc, /** Whether the guest's caches are on. */ cache }
    /// kvm_toggle_cache: the guest wrote a register that its caches depend on, while that is watched for.
    ToggleCache { /** Where. */ pc, /** Whether they were on. */ was, /** Whether they are. */ now }
    /// kvm_timer_update_irq: a timer's line changed.
    TimerUpdateIrq { /** Whose. */ vcpu, /** Its PPI. */ irq, /** To this. */ level }
    /// kvm_get_timer_map: which timers are hardware, and which emulated.
    TimerMap { /** Whose. */ vcpu, /** The one in the virtual timer's hardware. */ direct_virtual, /** In the physical one's. */ direct_physical, /** Emulated. */ emulated }
    /// kvm_timer_save_state: a hardware timer, when the guest was left.
    TimerSave { /** CNTV_CTL. */ control, /** CNTV_CVAL. */ compare, /** Which. */ timer }
    /// kvm_timer_restore_state: the same, before it is entered.
    TimerRestore { /** CNTV_CTL. */ control, /** CNTV_CVAL. */ compare, /** Which. */ timer }
    /// kvm_timer_hrtimer_expire: the host's timer that stands in for one of the guest's is due.
    TimerExpire { /** Which. */ timer }
    /// kvm_timer_emulate: the emulated timer is looked at.
    TimerEmulate { /** Which. */ timer, /** Whether it is asserted. */ asserted }
    /// kvm_emulate_cp15_imp: a trapped access to CP15.
    Cp15 { /** opc1. */ opc1, /** Rt. */ rt, /** CRn. */ crn, /** CRm. */ crm, /** opc2. */ opc2, /** MCR. */ write }
    /// kvm_wfx: WFI or WFE.
    Wait { /** Where. */ pc, /** WFE. */ event }
    /// kvm_hvc: a hypercall.
    Hypercall { /** Behind it. */ pc, /** The function. */ r0, /** The instruction's number. */ immediate }
    /// vgic_update_irq_pending: an interrupt's line is driven.
    UpdatePending { /** Whose. */ vcpu, /** Which. */ irq, /** How. */ level }
    /// kvm_mmio: an access to a device.
    Mmio { /** [`MMIO_UNSATISFIED`] and so on. */ kind, /** Bytes. */ len, /** Where. */ ipa, /** What, in the order of addresses. */ value }
    /// kvm_userspace_exit: KVM_RUN returns.
    UserspaceExit { /** KVM_EXIT_... */ reason, /** errno, negative, or 0. */ errno }
    /// kvm_vcpu_wakeup: a wait in WFI ended.
    VcpuWakeup { /** Nanoseconds that it took. */ ns, /** It slept. */ waited, /** An interrupt ended it. */ valid }
    /// kvm_halt_poll_ns: a vCPU is to poll longer, or shorter, before it sleeps.
    HaltPoll { /** Longer. */ grow, /** Whose. */ vcpu, /** Nanoseconds now. */ new, /** And before. */ old }
    /// kvm_set_irq: an interrupt comes by the routing table.
    SetIrq { /** Its GSI. */ gsi, /** Its level. */ level, /** Where it came from. */ source }
    /// kvm_ack_irq: the guest ended an interrupt that somebody asked to hear of.
    AckIrq { /** The controller. */ irqchip, /** The line. */ pin }
}

/// A load that the process is to answer.
pub const MMIO_UNSATISFIED: u64 = 0;
/// A load that was answered.
pub const MMIO_READ: u64 = 1;
/// A store.
pub const MMIO_WRITE: u64 = 2;

/// Tells of an event of this kind, if it is watched. Not while a part of a guest's state is in the hardware.
#[inline(always)]
pub fn note<H: Host>(host: &H, kind: Kind, event: impl FnOnce() -> Event) {
    if host.watched().has(kind) {
        tell(host, event);
    }
}

/// Apart, so that nothing of the event is made where nobody watches.
#[cold]
#[inline(never)]
fn tell<H: Host>(host: &H, event: impl FnOnce() -> Event) {
    host.tell(event());
}

/// Tells of one more kind of event if it is among `watched`.
fn note_of<H: Host>(host: &H, watched: Watched, event: Event) {
    if watched.has(event.kind()) {
        host.tell(event);
    }
}

/// The guest is about to be entered. `asserted`: its physical timer is.
#[cold]
#[inline(never)]
pub fn entry<H: Host>(host: &H, watched: Watched, context: &VcpuContext, asserted: bool) {
    let (control, compare) = (context.timer.ctl.into(), context.timer.cval);
    note_of(host, watched, Event::TimerRestore { control, compare, timer: VIRTUAL_TIMER });
    note_of(host, watched, Event::TimerEmulate { timer: PHYSICAL_TIMER, asserted: asserted.into() });
    note_of(host, watched, Event::Entry { pc: context.pc.into() });
}

/// The guest was left. Hyp mode told what it had to tell.
#[cold]
#[inline(never)]
pub fn exit<H: Host>(host: &H, watched: Watched, context: &VcpuContext, code: ExitCode) {
    let (exception, class) = match code {
        ExitCode::Trap | ExitCode::ShortTrap => {
            (EXCEPTION_HVC, arch::syndrome::exception_class(context.exit.hsr).into())
        }
        _ => (EXCEPTION_IRQ, 0),
    };
    note_of(host, watched, Event::Exit { exception, class, pc: context.pc.into() });
    let (control, compare) = (context.timer.ctl.into(), context.timer.cval);
    note_of(host, watched, Event::TimerSave { control, compare, timer: VIRTUAL_TIMER });
}

/// A stage-2 abort.
#[inline(always)]
pub fn guest_fault<H: Host>(host: &H, context: &VcpuContext) {
    let watched = host.watched();
    if watched.any() {
        watched_fault(host, watched, context);
    }
}

#[cold]
#[inline(never)]
fn watched_fault<H: Host>(host: &H, watched: Watched, context: &VcpuContext) {
    let (pc, exit) = (context.pc.into(), &context.exit);
    let (hsr, far, ipa) = (exit.hsr.into(), exit.far.into(), arch::syndrome::fault_ipa(exit.hpfar, exit.far).get());
    note_of(host, watched, Event::GuestFault { pc, hsr, far, ipa });
    if matches!(FaultStatus::from_long(exit.hsr), FaultStatus::AccessFlag(_)) {
        note_of(host, watched, Event::AccessFault { ipa });
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;
