// SPDX-License-Identifier: GPL-2.0-only
//! Exits that are answered with interrupts off, and where Hyp mode itself answers.
//!
//! After [`ExitCode::ShortTrap`](hyp_abi::context::ExitCode::ShortTrap) the guest's interrupts, timers and a part of its registers
//! are still in the hardware. What can be answered from the rest is answered here, without sleep and without timers: the physical
//! timer is not the kernel's meanwhile, and to touch it would trap for ever. So nobody is woken here, for the scheduler may set a
//! timer then; other vCPUs that are in their guests can be interrupted. The guest goes on: nothing is stored, nothing is loaded
//! again. Whatever else the run loop looks at before it enters a guest need not be looked at: what changes meanwhile announces
//! itself by an interrupt, which waits at the CPU.
//!
//! The guest is in Supervisor mode. Of its context the registers of that mode, of Abort and Undefined mode, and CP15 up to TTBCR are
//! valid; the banks of other modes, the virtual timer, and CNTKCTL are not.

use super::Run;
use super::interrupts::{empty_interface, fill_interface};
use crate::cp15::trap;
use crate::guest_registers;
use crate::host::Host;
use crate::psci;
use crate::trace::Watched;
use crate::vgic::{Interrupt, Kicks, Vgic};
use arch::addr::PAGE_SIZE;
use arch::condition::InstructionLength;
use arch::gic::gicd;
use arch::syndrome::{self, Trap};
use hyp_abi::context::{Answer, NO_PAGE};
use uapi::psci as id;

/// What became of a short exit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum AtOnce {
    /// The guest goes on.
    Answered,
    /// So it does, but first these are to be woken, and the process told of interrupts that have ended, which may take timers of the
    /// host's: not before the guest is left.
    AnsweredAndWakes(Kicks),
    /// Nothing was done.
    NotAnswered,
}

impl<H: Host> Run<'_, H> {
    /// Writes into the context what Hyp mode may answer, and what is a short exit. Interrupts are off.
    pub(super) fn prepare_answers(&mut self, watched: Watched) {
        let generation = self.vm.generation();
        if self.state.answers_as_of != Some(generation) {
            self.state.answers_as_of = Some(generation);
            self.write_answers();
        }
        // Whoever watches events sees every exit.
        let may_answer = self.hypervisor.host.hyp_may_answer() && !watched.any();
        self.state.context.control.answers = may_answer.into();
    }

    #[cold]
    fn write_answers(&mut self) {
        let firmware = self.firmware();
        let control = &mut self.state.context.control;
        control.distributor = self.vm.distributor().map_or(NO_PAGE, syndrome::hpfar);
        let questions = [id::SMCCC_ARCH_WORKAROUND_1, id::PSCI_VERSION, id::SMCCC_VERSION, id::MIGRATE_INFO_TYPE];
        self.state.context.answers.calls =
            questions.map(|question| Answer { question, value: psci::constant_answer(question, &firmware) });
    }

    /// Answers the trap, if it is one of those that can be. Interrupts are off.
    #[inline(never)]
    pub(super) fn answer_at_once(&mut self) -> AtOnce {
        let hsr = self.state.context.exit.hsr;
        let class = syndrome::exception_class(hsr);
        if class == syndrome::DATA_ABORT {
            return self.distributor_at_once(hsr);
        }
        let answered = match class {
            syndrome::HVC => self.hypercall_at_once(),
            _ => self.register_at_once(hsr),
        };
        if answered { AtOnce::Answered } else { AtOnce::NotAnswered }
    }

    /// A read changes nothing but the guest's register; a write may want caches flushed or timers set, and is left.
    fn register_at_once(&mut self, hsr: u32) -> bool {
        let context = &mut *self.state.context;
        let length = InstructionLength::from_hsr(hsr);
        let Some(trap) = Trap::from_hsr(hsr) else { return false };
        if !guest_registers::passes_condition(context, trap.condition(), length) {
            return true;
        }
        let host = &self.hypervisor.host;
        let _ = match trap {
            Trap::Cp15(access) if !access.write => {
                trap::cp15(&mut self.state.registers(), &access, length, || host.counter())
            }
            Trap::Cp15Wide(access) if !access.write => {
                trap::cp15_wide(&mut self.state.registers(), &access, length, || host.counter())
            }
            _ => return false,
        };
        true
    }

    fn hypercall_at_once(&mut self) -> bool {
        let [function, ..] = self.state.context.r;
        if !psci::only_asks(function) {
            return false;
        }
        let firmware = self.firmware();
        let answered = psci::hypercall(&mut self.state.context, &firmware) == psci::Call::Answered;
        if answered {
            self.vcpu.statistics.hvc_exit_stat.count();
        }
        answered
    }

    /// A word between the distributor and a register, which is all that guests do often. Bytes are left to
    /// [`mmio`](crate::mmio), as is all that does not come by a short exit.
    ///
    /// If nothing of this vCPU is in list registers, all is known without asking the hardware; otherwise what it has is taken in
    /// first and given out again.
    fn distributor_at_once(&mut self, hsr: u32) -> AtOnce {
        let context = &mut *self.state.context;
        let Some((rt, write)) = syndrome::word_access(hsr) else { return AtOnce::NotAnswered };
        let offset = context.exit.far & (PAGE_SIZE as u32 - 1);
        let register = guest_registers::supervisor(context, rt);
        // While the virtual timer's line counts as high the timer itself has to be looked at, and wherever pending is read.
        if self.state.answers_as_of != Some(self.vm.generation())
            || self.state.timer_lines[0]
            || Vgic::<H::Array<Interrupt>>::shows_more(offset)
        {
            return AtOnce::NotAnswered;
        }
        let number = self.number;
        let kicks = if self.state.cpu_interface.is_in_use() {
            let written = write.then_some(*register);
            let (kicks, read) = self.distributor_between_stays(offset, written);
            if !write {
                *guest_registers::supervisor(&mut self.state.context, rt) = read;
            }
            kicks
        } else if write {
            let value = *register;
            let kicks = self.vm.with_vgic(|vgic| vgic.dist_write_word(number, offset, value)).unwrap_or(Kicks::NONE);
            if kicks.contains(number) {
                // The guest may have changed its priority mask meanwhile.
                let interface = &mut self.state.cpu_interface;
                self.hypervisor.host.store_cpu_interface(interface);
                let before = interface.used;
                let timer = self.vm.timer_ppis.virtual_timer();
                let in_flight = self.vm.with_vgic(|vgic| fill_interface(vgic, number, timer, interface));
                self.reload_interface(in_flight.unwrap_or(false), before);
            }
            kicks
        } else {
            *register = self.vm.look_at_vgic(|vgic| vgic.dist_read(number, offset, 4)).unwrap_or(0);
            Kicks::NONE
        };
        self.vcpu.statistics.mmio_exit_kernel.count();
        let context = &mut *self.state.context;
        context.pc = context.pc.wrapping_add(InstructionLength::Word.bytes());
        let others = kicks.without(number);
        if others.is_empty() && self.state.ended.is_empty() {
            return AtOnce::Answered;
        }
        let asleep = self.vm.kick_out(others);
        if asleep.is_empty() && self.state.ended.is_empty() {
            AtOnce::Answered
        } else {
            AtOnce::AnsweredAndWakes(asleep)
        }
    }

    /// An access to the distributor while list registers are in use: they are taken in first, and filled anew. Who must look, and what a
    /// read reads.
    fn distributor_between_stays(&mut self, offset: u32, write: Option<u32>) -> (Kicks, u32) {
        let (vm, number, timer) = (self.vm, self.number, self.vm.timer_ppis.virtual_timer());
        let (interface, ended) = (&mut self.state.cpu_interface, &mut self.state.ended);
        self.hypervisor.host.store_cpu_interface(interface);
        let before = interface.used;
        let done = vm.with_vgic(|vgic| {
            let (mut kicks, mut read) = (Kicks::NONE, 0);
            match write {
                // A request for an SGI is noted beside what the registers hold, as another vCPU's would be. The last one, which
                // the guest has probably ended, then leaves no queue only to stand in it again.
                Some(value) if offset == gicd::SGIR => {
                    kicks |= vgic.write_sgir(number, value);
                    kicks |= empty_interface(vgic, number, interface, ended);
                }
                Some(value) => {
                    kicks |= empty_interface(vgic, number, interface, ended);
                    kicks |= vgic.dist_write_word(number, offset, value);
                }
                None => {
                    kicks |= empty_interface(vgic, number, interface, ended);
                    read = vgic.dist_read(number, offset, 4);
                }
            }
            (kicks, read, fill_interface(vgic, number, timer, interface))
        });
        let Some((kicks, read, in_flight)) = done else { return (Kicks::NONE, 0) };
        self.reload_interface(in_flight, before);
        (kicks, read)
    }
}

#[cfg(test)]
#[path = "short_exit_tests.rs"]
mod tests;
