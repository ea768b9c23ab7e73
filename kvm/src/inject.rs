// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions that the hypervisor gives to a guest.
//!
//! An undefined instruction, a prefetch abort or a data abort is put into the vCPU's registers as if the hardware had taken it at
//! the guest's PC: [`Entry`] says what that is, this module writes it to the bank of the mode that takes it. An asynchronous
//! abort is left to the hardware: HCR.VA makes it pending, and the guest takes it when its CPSR.A allows.
//!
//! PC must be the instruction at fault, not stepped over.
//!
//! Source: ARM DDI 0406C.d, B1.8.3 (taking an exception), B1.8.11 (virtual exceptions).

use crate::guest_registers;
use arch::exception::{self, Entry, Exception};
use arch::fault::FaultStatus;
use arch::guest_registers::{Sctlr, Ttbcr};
use arch::hyp_registers::Hcr;
use hyp_abi::context::VcpuContext;

fn take(context: &mut VcpuContext, exception: Exception) {
    let sctlr = Sctlr::from_bits_retain(context.cp15.sctlr);
    let cpsr = guest_registers::cpsr(context);
    let entry = Entry::take(exception, context.pc, cpsr, sctlr, context.cp15.vbar);
    if let Some(bank) = guest_registers::exception_bank(context, entry.mode) {
        bank.lr = entry.lr;
        bank.spsr = entry.spsr.bits();
    }
    context.cpsr = entry.cpsr.bits();
    context.pc = entry.pc;
}

fn ttbcr(context: &VcpuContext) -> Ttbcr {
    Ttbcr::from_bits_retain(context.cp15.ttbcr)
}

/// Makes the guest take an undefined instruction exception.
pub fn undefined(context: &mut VcpuContext) {
    take(context, Exception::Undefined);
}

/// Makes the guest take a prefetch abort for the instruction at virtual `address`.
pub fn prefetch_abort(context: &mut VcpuContext, address: u32, fault: FaultStatus) {
    context.cp15.ifsr = exception::ifsr(fault, ttbcr(context));
    context.cp15.ifar = address;
    take(context, Exception::PrefetchAbort);
}

/// Makes the guest take a data abort for an access to virtual `address`.
pub fn data_abort(context: &mut VcpuContext, address: u32, write: bool, fault: FaultStatus) {
    context.cp15.dfsr = exception::dfsr(fault, write, ttbcr(context));
    context.cp15.dfar = address;
    take(context, Exception::DataAbort);
}

/// Makes the guest take a synchronous external abort for the data access that it was left at, as a process asks for it
/// (`ext_dabt_pending` of `KVM_SET_VCPU_EVENTS`). Whether the access was a write is not told, as KVM did not.
pub fn external_data_abort(context: &mut VcpuContext) {
    data_abort(context, context.exit.far, false, FaultStatus::SyncExternal);
}

/// Makes an asynchronous abort pending for the guest.
pub fn async_abort(context: &mut VcpuContext) {
    context.control.hcr |= Hcr::VA.bits();
}

/// Whether an asynchronous abort is pending. The hardware clears HCR.VA when the guest takes it, so this is true to life only
/// because the world switch keeps the HCR with which the guest was left.
pub fn async_abort_is_pending(context: &VcpuContext) -> bool {
    Hcr::from_bits_retain(context.control.hcr).contains(Hcr::VA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arch::long_descriptor::Level;
    use arch::psr::{Mode, Psr};
    use proptest::prelude::*;

    fn guest(cpsr: Psr, sctlr: Sctlr, ttbcr: Ttbcr) -> VcpuContext {
        let mut context = VcpuContext { pc: 0x4000_0100, cpsr: cpsr.bits(), ..Default::default() };
        context.cp15.sctlr = sctlr.bits();
        context.cp15.ttbcr = ttbcr.bits();
        context.cp15.vbar = 0x8000_0020;
        context
    }

    /// Every exception from Arm and Thumb state of every mode, with each bit of SCTLR that matters, written out after B1.9.
    #[test]
    fn the_guest_finds_what_hardware_would_have_left() {
        let modes = [Mode::User, Mode::Fiq, Mode::Irq, Mode::Svc, Mode::Abt, Mode::Und, Mode::Sys];
        /// How to inject it; LR's distance from PC in Arm and Thumb state; its vector and mode.
        type Row = (fn(&mut VcpuContext), u32, u32, u32, Mode);
        let exceptions: [Row; 3] = [
            (undefined, 4, 2, 0x04, Mode::Und),
            (|c| prefetch_abort(c, 0x4000_0100, FaultStatus::SyncExternal), 4, 4, 0x0c, Mode::Abt),
            (|c| data_abort(c, 0xdead, true, FaultStatus::SyncExternal), 8, 8, 0x10, Mode::Abt),
        ];
        for (inject, arm, thumb, vector, target) in exceptions {
            for mode in modes {
                for state in [Psr::empty(), Psr::T, Psr::E, Psr::F | Psr::N, Psr::T.with_it_state(0x0c)] {
                    for sctlr in [Sctlr::empty(), Sctlr::V, Sctlr::TE, Sctlr::EE] {
                        let before = Psr::in_mode(mode) | state;
                        let mut context = guest(before, sctlr, Ttbcr::empty());
                        inject(&mut context);
                        let bank = if target == Mode::Und { context.banks.und } else { context.banks.abt };
                        let offset = if state.contains(Psr::T) { thumb } else { arm };
                        let base = if sctlr == Sctlr::V { 0xffff_0000 } else { 0x8000_0020 };
                        assert_eq!((bank.lr, bank.spsr), (0x4000_0100 + offset, before.bits()), "{mode:?} {state:?}");
                        assert_eq!(context.pc, base + vector);
                        let mut status = Psr::in_mode(target) | Psr::I | state & (Psr::F | Psr::N);
                        status.set(Psr::A, target == Mode::Abt);
                        status.set(Psr::T, sctlr == Sctlr::TE);
                        status.set(Psr::E, sctlr == Sctlr::EE);
                        assert_eq!(context.cpsr, status.bits(), "{mode:?} {state:?} {sctlr:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn status_and_address_in_both_formats() {
        let mut context = guest(Psr::in_mode(Mode::User), Sctlr::empty(), Ttbcr::empty());
        data_abort(&mut context, 0x1234, true, FaultStatus::SyncExternal);
        assert_eq!((context.cp15.dfsr, context.cp15.dfar), (0x808, 0x1234));
        prefetch_abort(&mut context, 0x5678, FaultStatus::Translation(Level::Two));
        assert_eq!((context.cp15.ifsr, context.cp15.ifar), (0x007, 0x5678));
        assert_eq!(context.cp15.dfar, 0x1234, "a prefetch abort leaves DFAR alone");

        let mut context = guest(Psr::in_mode(Mode::User), Sctlr::empty(), Ttbcr::EAE);
        context.exit.far = 0x9abc;
        external_data_abort(&mut context);
        assert_eq!((context.cp15.dfsr, context.cp15.dfar), (0x210, 0x9abc));
        prefetch_abort(&mut context, 4, FaultStatus::Translation(Level::Three));
        assert_eq!(context.cp15.ifsr, 0x207);
    }

    #[test]
    fn an_asynchronous_abort_waits_in_hcr() {
        let mut context = VcpuContext::default();
        assert!(!async_abort_is_pending(&context));
        async_abort(&mut context);
        assert!(async_abort_is_pending(&context) && context.control.hcr == 1 << 8);
    }

    proptest! {
        #[test]
        fn whatever_it_was_doing_the_guest_ends_in_an_exception_mode(pc: u32, cpsr: u32, sctlr: u32, ttbcr: u32, vbar: u32) {
            let mut context = VcpuContext { pc, cpsr, ..Default::default() };
            (context.cp15.sctlr, context.cp15.ttbcr, context.cp15.vbar) = (sctlr, ttbcr, vbar);
            undefined(&mut context);
            prop_assert_eq!(guest_registers::mode(&context), Mode::Und);
            prop_assert_eq!(context.banks.und.spsr, cpsr);
            data_abort(&mut context, pc, false, FaultStatus::from_long(cpsr));
            prop_assert_eq!(guest_registers::mode(&context), Mode::Abt);
        }
    }
}
