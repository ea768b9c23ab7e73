// SPDX-License-Identifier: GPL-2.0-only
//! KVM_RUN: a vCPU runs until its process is wanted.
//!
//! Each turn of the loop turns interrupts off, looks whether anything stands against the guest, and enters it. What must not happen
//! between that look and the guest (a VMID roll-over, a kick, a signal) makes itself known by an interrupt to this CPU, which waits
//! until the guest is entered and then ends its stay at once. If something does stand against it (a signal, another thread's
//! turn, a vCPU that is off, no VMID), that is seen to with interrupts on, and the loop begins again.
//!
//! Some exits are answered in between, with interrupts off and the guest's interrupts still loaded: [`short_exit`].
//!
//! On the way in, timers drive their lines of the interrupt controller and pending interrupts go to list registers; on the way
//! out the same is read back. With interrupts on again the exit is handled: here, or by the process.

mod abort;
mod interrupts;
mod short_exit;
mod wait;

use crate::cp15::Registers;
use crate::cp15::trap::{self, Outcome};
use crate::guest_memory::Access;
use crate::host::{Host, Masks, Unresolved, Waiter, Wake};
use crate::mmio::Instruction;
use crate::psci::{self, AFFINITY, Call, Firmware, PowerOn, Version};
use crate::reset::{self, Place};
use crate::trace::{self, Event, Kind, Watched};
use crate::vcpu::{Power, Vcpu, VcpuState};
use crate::vgic::{Kicks, Queue};
use crate::vm::{Hypervisor, IrqchipError, Vm};
use crate::{guest_registers, inject};
use abort::{count_for_process, note_mmio, write_to_bus};
use arch::condition::InstructionLength;
use arch::syndrome::{self, DataAbort, RegisterAccess, Trap, WideRegisterAccess};
use hyp_abi::context::ExitCode;
use short_exit::AtOnce;
use uapi::run::{Exit, KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};

/// Why KVM_RUN returns to the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// With success, and this in `struct kvm_run`.
    Exit(Exit),
    /// With success, and [`VcpuState::asks`] in `struct kvm_run`.
    Asks,
    /// A signal is pending, the process asked not to enter, or it is to be told a timer's level (EINTR).
    Interrupted,
    /// The kernel has work for the thread on its way to user mode. Then the call begins again, unless a signal's handler is to run.
    Again,
    /// The process's memory cannot be had (EFAULT, EHWPOISON, ENOMEM).
    Unresolved(Unresolved),
    /// The interrupt controller is not ready.
    Irqchip(IrqchipError),
    /// A load or store where no memory is, which neither the syndrome describes nor can be emulated from its encoding (ENOSYS).
    NoSyndrome,
}

/// What one exit asks for.
enum Next {
    /// Back into the guest.
    Enter,
    /// Back to the process.
    Leave(Return),
}

/// Who wants the thread before the guest may go on.
enum Wanted {
    ByProcess,
    ByKernel,
}

/// A vCPU's turn.
struct Run<'a, H: Host> {
    hypervisor: &'a Hypervisor<H>,
    vm: &'a Vm<H>,
    vcpu: &'a Vcpu<H>,
    number: usize,
    /// The VM has an interrupt controller of ours.
    with_irqchip: bool,
    state: &'a mut VcpuState<H>,
}

/// Tells what there is to tell when KVM_RUN begins: what the process answered to a load, and which timers are hardware.
#[cold]
#[inline(never)]
fn note_begin<H: Host>(host: &H, number: usize, pending: Option<&Instruction>, answer: [u8; 8]) {
    if let Some(load) = pending.and_then(Instruction::access).filter(|access| access.written().is_none()) {
        note_mmio(host, load.ipa, load.size, || (trace::MMIO_READ, load.answer(answer)));
    }
    trace::note(host, Kind::TimerMap, || {
        let (direct_virtual, emulated) = (trace::VIRTUAL_TIMER, trace::PHYSICAL_TIMER);
        Event::TimerMap { vcpu: number as u64, direct_virtual, direct_physical: u64::MAX, emulated }
    });
}

/// Runs vCPU `number` of `vm`, whose state the caller holds, on the calling thread, which is the process's. May sleep.
///
/// `answer` is what the process says to the access that the last return left pending, `immediate` that it wants no more than
/// that to be done: that is, its instruction to be done. If the instruction makes another access, the process gets that, even so.
#[inline]
pub fn run<H: Host>(
    hypervisor: &Hypervisor<H>,
    vm: &Vm<H>,
    number: usize,
    state: &mut VcpuState<H>,
    answer: [u8; 8],
    immediate: bool,
) -> Return {
    let Some(vcpu) = vm.vcpu(number) else { return Return::Irqchip(IrqchipError::Invalid) };
    vcpu.waiter().adopt();
    if state.lost {
        return Return::Exit(internal_error(ExitCode::HypPanic.to_raw()));
    }
    if hypervisor.host.watched().any() {
        note_begin(&hypervisor.host, number, state.pending.as_ref(), answer);
    }
    if let Some(instruction) = &mut state.pending {
        let mut next = instruction.answer(&mut state.context, answer);
        while let Some(access) = next {
            if !write_to_bus(&hypervisor.host, vm, vcpu, &access) {
                count_for_process(&hypervisor.host, vcpu, state);
                return Return::Asks;
            }
            next = instruction.answer(&mut state.context, [0; 8]);
        }
        state.pending = None;
    }
    if immediate {
        return Return::Interrupted;
    }
    if let Err(error) = vm.prepare_to_run(hypervisor) {
        return Return::Irqchip(error);
    }
    let mut turn = Run { hypervisor, vm, vcpu, number, with_irqchip: vm.has_running_irqchip(), state };
    vm.begin_run(vcpu, &mut turn.state.cpu_interface);
    let result = turn.until_wanted();
    turn.state.alarm.set(None);
    // A call that begins again has not come to the process.
    if !matches!(result, Return::Again) {
        turn.tell_process();
    }
    vm.end_run(vcpu, &turn.state.cpu_interface);
    result
}

/// Starts a vCPU that was turned on and has not run since, as whoever turned it on asked. Before that its registers are not those that
/// it will run with: a process that reads or writes them calls this first.
pub fn start_as_asked<H: Host>(hypervisor: &Hypervisor<H>, vm: &Vm<H>, number: usize, state: &mut VcpuState<H>) {
    let start = vm.vcpu(number).and_then(|vcpu| vcpu.change_power(|power| power.start.take()));
    if let Some(start) = start {
        let place = Place { vcpu: number as u32, vcpus: vm.vcpus().count() as u32 };
        reset::power_on(&mut state.registers(), &hypervisor.hardware.id, place, &start);
    }
}

impl<H: Host> Run<'_, H> {
    #[inline(never)]
    fn until_wanted(&mut self) -> Return {
        loop {
            let Some(code) = self.stay() else {
                match self.see_to_what_came_up() {
                    None => continue,
                    Some(Wanted::ByProcess) => return Return::Interrupted,
                    Some(Wanted::ByKernel) => return Return::Again,
                }
            };
            self.take_async_abort();
            // The most frequent of those that come here, and only ever of an instruction that was executed: straight to the point.
            if let Some(access) = self.access_to_last_device(code) {
                if self.is_left_to_process(access) {
                    return Return::Asks;
                }
                continue;
            }
            if let Next::Leave(result) = self.handle(code) {
                return result;
            }
        }
    }

    /// Sees to whatever may keep [`Self::stay`] from entering the guest, unless the thread is wanted elsewhere.
    #[cold]
    #[inline(never)]
    fn see_to_what_came_up(&mut self) -> Option<Wanted> {
        let host = &self.hypervisor.host;
        host.yield_cpu();
        if host.signal_pending() {
            self.vcpu.statistics.signal_exits.count();
            return Some(Wanted::ByProcess);
        }
        if host.work_pending() {
            return Some(Wanted::ByKernel);
        }
        if !self.is_on() || self.process_is_behind() {
            return Some(Wanted::ByProcess);
        }
        if !self.hypervisor.vmids.is_current(self.vm.memory.vmid()) {
            self.hypervisor.vmids.assign(self.vm.memory.vmid());
        }
        None
    }

    /// Waits until the vCPU is on, and starts it if it just was turned on. False: a signal came first.
    fn is_on(&mut self) -> bool {
        if self.vcpu.runs() {
            return true;
        }
        if self.vcpu.sleep_until(|| !self.vcpu.power().off) == Wake::Signal {
            return false;
        }
        start_as_asked(self.hypervisor, self.vm, self.number, self.state);
        true
    }

    /// One stay in the guest, short exits included. `None`: something came up before it was entered.
    fn stay(&mut self) -> Option<ExitCode> {
        let masks = self.hypervisor.host.interrupts_off();
        let host = &self.hypervisor.host;
        self.vcpu.set_in_guest(true);
        // Before the timers are looked at.
        self.state.context.timer.cntvoff = self.vm.counter_offset();
        let vttbr = self.vm.memory.vttbr(&self.hypervisor.vmids);
        let may_enter = vttbr.is_some() && !host.must_stop() && self.vcpu.runs() && !self.process_is_behind();
        let Some(vttbr) = vttbr.filter(|_| may_enter) else {
            self.come_back(masks);
            return None;
        };
        if !host.may_enter(self.vm.memory.vmid(), vttbr) {
            self.come_back(masks);
            return Some(ExitCode::SharedVmid);
        }
        self.state.context.control.vttbr = vttbr.bits();
        if self.vm.last_ran.note(host.cpu(), self.number as u32) {
            host.flush_vmid_local(vttbr.bits());
        }
        let watched = host.watched();
        self.prepare_answers(watched);
        self.choose_rest(watched);
        let mut kicks = Kicks::NONE;
        let code = loop {
            self.load_interrupts();
            let was_asserted = self.state.timer_lines[0];
            let (code, woken) = self.until_long_exit(watched);
            kicks |= woken | self.store_interrupts();
            if code == ExitCode::Interrupt {
                self.vcpu.statistics.irq_exits.count();
            }
            // The guest's own timer has come, or come again after the guest ended its last interrupt: now that the interrupt controller
            // knows, the host has nothing to do with it. If it has other interrupts, they end the next stay before the first instruction.
            let timer_came = self.state.timer_lines[0] && (!was_asserted || self.has_ended_timer_interrupt());
            let aborted = self.state.context.exit.async_abort != 0;
            if code != ExitCode::Interrupt
                || !timer_came
                || aborted
                || !kicks.is_empty()
                || !self.state.ended.is_empty()
            {
                break code;
            }
        };
        if code == ExitCode::Interrupt {
            self.hypervisor.host.note_quiescent();
        }
        self.come_back(masks);
        self.take_over_counts();
        self.vm.kick(kicks);
        if !self.state.ended.is_empty() {
            self.vm.resample(&core::mem::replace(&mut self.state.ended, Queue::EMPTY));
        }
        Some(code)
    }

    /// Ends what [`Self::stay`] began: nobody need interrupt this CPU for the vCPU's sake, and interrupts are on.
    #[inline(always)]
    fn come_back(&self, masks: Masks) {
        self.vcpu.set_in_guest(false);
        self.hypervisor.host.interrupts_on(masks);
    }

    /// What Hyp mode counted while the guest ran.
    #[inline(always)]
    fn take_over_counts(&mut self) {
        let exit = &mut self.state.context.exit;
        let statistics = &self.vcpu.statistics;
        for (counted, to) in
            [(&mut exit.hyp_answers, &statistics.hyp_answers), (&mut exit.vfp_switches, &statistics.vfp_switches)]
        {
            if *counted != 0 {
                to.add(core::mem::take(counted));
            }
        }
    }

    /// Enters the guest, again and again, until it exits for something that cannot be answered at once. Why it did, and who is to be
    /// woken for what was answered last. Interrupts are off.
    fn until_long_exit(&mut self, watched: Watched) -> (ExitCode, Kicks) {
        let host = &self.hypervisor.host;
        if watched.any() {
            trace::entry(host, watched, &self.state.context, self.state.timer_lines[1]);
        }
        let mut exits = 1u32;
        let mut code = host.enter_guest(&mut self.state.context);
        let mut kicks = Kicks::NONE;
        while code == ExitCode::ShortTrap {
            code = match if watched.any() { AtOnce::NotAnswered } else { self.answer_at_once() } {
                AtOnce::Answered => {
                    exits = exits.wrapping_add(1);
                    host.resume_guest(&mut self.state.context)
                }
                AtOnce::AnsweredAndWakes(asleep) => {
                    kicks = asleep;
                    self.leave_guest(ExitCode::Again)
                }
                AtOnce::NotAnswered => self.leave_guest(ExitCode::Trap),
            };
        }
        self.vcpu.statistics.exits.add(exits);
        if watched.any() {
            trace::exit(host, watched, &self.state.context, code);
        }
        (code, kicks)
    }

    /// Makes a short exit a long one: `code`, unless Hyp mode fails at it.
    fn leave_guest(&mut self, code: ExitCode) -> ExitCode {
        let left = self.hypervisor.host.leave_guest(&mut self.state.context);
        if left { code } else { ExitCode::HypPanic }
    }

    /// Gives the guest the asynchronous abort that it caused, if it did.
    #[inline(always)]
    fn take_async_abort(&mut self) {
        let context = &mut *self.state.context;
        if core::mem::take(&mut context.exit.async_abort) != 0 {
            inject::async_abort(context);
        }
    }

    /// Does what the exit asks for. Interrupts are on.
    #[inline(never)]
    fn handle(&mut self, code: ExitCode) -> Next {
        match code {
            ExitCode::Interrupt | ExitCode::Again => Next::Enter,
            ExitCode::Trap | ExitCode::ShortTrap => self.handle_trap(),
            ExitCode::Gone | ExitCode::SharedVmid => Next::Leave(Return::Exit(Exit::FailEntry {
                hardware_entry_failure_reason: code.to_raw().into(),
                cpu: self.hypervisor.host.cpu() as u32,
            })),
            ExitCode::HypPanic => {
                // What the guest had in registers is lost: the vCPU does not run again unless it is initialised anew.
                self.state.lost = true;
                Next::Leave(Return::Exit(internal_error(code.to_raw())))
            }
        }
    }

    fn handle_trap(&mut self) -> Next {
        let context = &mut *self.state.context;
        let hsr = context.exit.hsr;
        let length = InstructionLength::from_hsr(hsr);
        if syndrome::exception_class(hsr) == syndrome::DATA_ABORT {
            // Frequent, and only ever of an instruction that was executed.
            return self.data_abort(DataAbort::from_hsr(hsr), length);
        }
        // A class that no core reports that is known here: to the guest, something that its core does not have.
        let Some(trap) = Trap::from_hsr(hsr) else {
            inject::undefined(context);
            return Next::Enter;
        };
        if !guest_registers::passes_condition(context, trap.condition(), length) {
            return Next::Enter;
        }
        match trap {
            Trap::Wait { event, .. } => {
                trace::note(&self.hypervisor.host, Kind::Wait, || Event::Wait {
                    pc: context.pc.into(),
                    event: event.into(),
                });
                let statistics = &self.vcpu.statistics;
                if event { &statistics.wfe_exit_stat } else { &statistics.wfi_exit_stat }.count();
                guest_registers::skip_instruction(context, length);
                if !event {
                    return self.wait();
                }
            }
            Trap::Cp15(access) => {
                self.note_cp15(&access);
                return self.cp15(|registers, now| trap::cp15(registers, &access, length, now));
            }
            Trap::Cp15Wide(access) => {
                self.note_cp15_wide(&access);
                return self.cp15(|registers, now| trap::cp15_wide(registers, &access, length, now));
            }
            Trap::Cp14(access) => trap::cp14(context, &access, length),
            Trap::Cp14Wide(access) => trap::cp14_wide(context, &access, length),
            Trap::Hvc { immediate } => return self.hypercall(immediate),
            Trap::Smc => psci::refuse_smc(context),
            // A walk of the guest's own tables reads them, whatever it was made for.
            Trap::PrefetchAbort(abort) => {
                let access = if abort.stage1_walk { Access::Read } else { Access::Execute };
                return self.abort(abort.fault, access, None, length);
            }
            Trap::DataAbort(abort) => return self.data_abort(abort, length),
            // With an asynchronous abort pending the world switch leaves the exchange for the next time.
            Trap::Coprocessor { .. } if context.control.vfp != 0 && inject::async_abort_is_pending(context) => {}
            _ => inject::undefined(context),
        }
        Next::Enter
    }

    fn cp15(&mut self, emulate: impl FnOnce(&mut Registers<'_>, &dyn Fn() -> u64) -> Outcome) -> Next {
        let host = &self.hypervisor.host;
        let pc = self.state.context.pc.into();
        match emulate(&mut self.state.registers(), &|| host.counter()) {
            Outcome::FlushAfterSetWay => {
                let cache = trap::caches_are_on(&self.state.context).into();
                trace::note(host, Kind::SetWayFlush, || Event::SetWayFlush { pc, cache });
                self.vcpu.statistics.set_way_flushes.count();
                self.vm.memory.flush_all_mapped();
            }
            Outcome::FlushAfterSwitch { on } => {
                trace::note(host, Kind::ToggleCache, || Event::ToggleCache { pc, was: (!on).into(), now: on.into() });
                self.vcpu.statistics.cache_toggles.count();
                self.vm.memory.flush_all_mapped();
            }
            // The next way in looks at both.
            Outcome::Emulated | Outcome::Undefined | Outcome::PhysicalTimerWritten => {}
        }
        Next::Enter
    }

    fn note_cp15(&self, access: &RegisterAccess) {
        trace::note(&self.hypervisor.host, Kind::Cp15, || {
            let (op, rt) = (&access.op, access.rt.map_or(15, |rt| rt.index() as u64));
            let (opc1, crn, crm, opc2) = (op.opc1.into(), op.crn.into(), op.crm.into(), op.opc2.into());
            Event::Cp15 { opc1, rt, crn, crm, opc2, write: access.write.into() }
        });
    }

    fn note_cp15_wide(&self, access: &WideRegisterAccess) {
        trace::note(&self.hypervisor.host, Kind::Cp15, || {
            let (opc1, rt, crm) = (access.op.opc1.into(), access.rt.index() as u64, access.op.crm.into());
            // KVM decoded MCRR's one CR field as CRn.
            Event::Cp15 { opc1, rt, crn: crm, crm: 0, opc2: 0, write: access.write.into() }
        });
    }

    /// What the vCPU's guest finds for firmware.
    fn firmware(&self) -> Firmware {
        let mut firmware = self.vm.firmware();
        if !self.state.psci_0_2 {
            firmware.version = Version::V0_1;
        }
        firmware
    }

    fn hypercall(&mut self, immediate: u16) -> Next {
        trace::note(&self.hypervisor.host, Kind::Hypercall, || {
            let (pc, r0) = (self.state.context.pc.into(), self.state.context.r[0].into());
            Event::Hypercall { pc, r0, immediate: immediate.into() }
        });
        self.vcpu.statistics.hvc_exit_stat.count();
        let firmware = self.firmware();
        let context = &mut *self.state.context;
        match psci::hypercall(context, &firmware) {
            Call::Answered => {}
            Call::Suspend => return self.wait(),
            Call::CpuOff => self.vcpu.change_power(|power| power.off = true),
            Call::CpuOn { target, start } => {
                let answer = psci::cpu_on_answer(firmware.version, self.turn_on(target, start));
                psci::answer(&mut self.state.context, answer);
            }
            Call::AffinityInfo(query) => {
                let mpidr = |number| reset::mpidr(self.hypervisor.hardware.id.mpidr, number as u32);
                let vcpus = self.vm.vcpus().map(|(number, vcpu)| (mpidr(number), !vcpu.power().off));
                psci::answer(context, query.answer(vcpus));
            }
            Call::SystemOff => return self.system_event(KVM_SYSTEM_EVENT_SHUTDOWN),
            Call::SystemReset => return self.system_event(KVM_SYSTEM_EVENT_RESET),
        }
        Next::Enter
    }

    /// Turns a vCPU on. Whether it was on already; `None`: there is none of that affinity.
    fn turn_on(&self, target: u32, start: PowerOn) -> Option<bool> {
        let affinity = |number| reset::mpidr(self.hypervisor.hardware.id.mpidr, number as u32) & AFFINITY;
        let (_, vcpu) = self.vm.vcpus().find(|(number, _)| affinity(*number) == target)?;
        let was_on = vcpu.change_power(|power| {
            let was_on = !power.off;
            if !was_on {
                *power = Power { off: false, start: Some(start) };
            }
            was_on
        });
        if !was_on {
            vcpu.kick();
        }
        Some(was_on)
    }

    /// The guest ends or restarts: no vCPU of it runs until the process says so.
    fn system_event(&mut self, event: u32) -> Next {
        for (_, vcpu) in self.vm.vcpus() {
            vcpu.change_power(|power| power.off = true);
            vcpu.kick();
        }
        Next::Leave(Return::Exit(Exit::SystemEvent { event, flags: 0 }))
    }
}

/// An exit that should not be.
fn internal_error(detail: u32) -> Exit {
    let data = [detail.into(), 0];
    Exit::InternalError { suberror: KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, ndata: 1, data }
}

#[cfg(test)]
#[path = "run_bus_tests.rs"]
mod bus_tests;
#[cfg(test)]
#[path = "run_event_tests.rs"]
mod event_tests;
#[cfg(test)]
#[path = "run_machine.rs"]
pub(crate) mod machine;
#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
