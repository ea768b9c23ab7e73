// SPDX-License-Identifier: GPL-2.0-only
//! Stage-2 aborts: memory that is to be mapped, a device that is to be asked, or nothing.
//!
//! What has a memory slot is mapped, and the guest tries again. Elsewhere are devices: the distributor, answered here; the CPU
//! interface, which is the hardware's own and mapped; all others are the process's, which KVM_RUN returns to. The access is
//! what the syndrome says ([`mmio`]), or, where it says nothing, what the instruction says ([`transfer`]).

use super::{Next, Return, Run};
use crate::guest_memory::{Access, FaultOutcome};
use crate::host::{Host, Unresolved};
use crate::mmio::transfer::{self, Refused, Transfer};
use crate::mmio::{self, Decoded, DevicePage, Instruction, Pending};
use crate::trace::{self, Event, Kind, MMIO_READ, MMIO_UNSATISFIED, MMIO_WRITE};
use crate::vcpu::{Vcpu, VcpuState};
use crate::vgic::{Interrupt, Kicks, Vgic};
use crate::vm::{Hit, Vm};
use crate::{guest_registers, inject};
use arch::addr::Ipa;
use arch::condition::InstructionLength;
use arch::fault::FaultStatus;
use arch::syndrome::{self, AccessSize, DataAbort};
use core::sync::atomic::Ordering;
use hyp_abi::context::{ExitCode, ExitRecord};
use uapi::run::Exit;

impl<H: Host> Run<'_, H> {
    /// The load or store, if the exit is a plain one to the page that the last one to a device of the process's went to.
    #[inline(always)]
    pub(super) fn access_to_last_device(&mut self, code: ExitCode) -> Option<Pending> {
        let context = &mut *self.state.context;
        let ExitRecord { hsr, hpfar, far, .. } = context.exit;
        // Should a slot come just now, the guest does not know of it yet: whoever makes one tells it after the generation was counted up.
        let page = DevicePage { hpfar, slots: self.vm.memory.slots_generation() };
        if code != ExitCode::Trap || !syndrome::is_device_access(hsr) || self.state.device_page != Some(page) {
            return None;
        }
        let DataAbort { access, write, .. } = DataAbort::from_hsr(hsr);
        let ipa = syndrome::fault_ipa(hpfar, far);
        let access = Pending::new(context, access?, write, ipa, InstructionLength::from_hsr(hsr));
        self.count_fault();
        Some(access)
    }

    #[inline(always)]
    fn count_fault(&self) {
        self.vcpu.statistics.guest_faults.count();
        trace::guest_fault(&self.hypervisor.host, &self.state.context);
    }

    /// A data abort.
    pub(super) fn data_abort(&mut self, abort: DataAbort, length: InstructionLength) -> Next {
        let writes = abort.write && !abort.cache_maintenance && !abort.stage1_walk;
        let access = if writes { Access::Write } else { Access::Read };
        self.abort(abort.fault, access, Some(abort), length)
    }

    /// A stage-2 abort: memory that is to be mapped, a device, or nothing.
    #[inline(always)]
    pub(super) fn abort(
        &mut self,
        fault: FaultStatus,
        access: Access,
        data: Option<DataAbort>,
        length: InstructionLength,
    ) -> Next {
        let context = &mut *self.state.context;
        let (far, hpfar) = (context.exit.far, context.exit.hpfar);
        let ipa = syndrome::fault_ipa(hpfar, far);
        match fault {
            FaultStatus::Translation(_) | FaultStatus::Permission(_) | FaultStatus::AccessFlag(_) => {}
            FaultStatus::AsyncExternal | FaultStatus::AsyncParity => {
                inject::async_abort(context);
                return Next::Enter;
            }
            // Memory itself failed the guest: it hears of it as if it had no hypervisor.
            _ => {
                match data {
                    Some(abort) => inject::data_abort(context, far, abort.write, FaultStatus::SyncExternal),
                    None => inject::prefetch_abort(context, far, FaultStatus::SyncExternal),
                }
                return Next::Enter;
            }
        }
        self.count_fault();
        let slots = self.vm.memory.slots_generation();
        let mut device_page = None;
        match self.vm.memory.fault(ipa, access, &mut self.state.cache) {
            Ok(FaultOutcome::Mapped | FaultOutcome::Again) => return Next::Enter,
            Ok(FaultOutcome::NoSlot) => device_page = Some(DevicePage { hpfar, slots }),
            Ok(FaultOutcome::Mmio) => {}
            Err(Unresolved::Interrupted) => return Next::Leave(Return::Interrupted),
            Err(error) => return Next::Leave(Return::Unresolved(error)),
        }
        let Some(abort) = data else {
            // No device is executed from, ours included.
            inject::prefetch_abort(&mut self.state.context, far, FaultStatus::SyncExternal);
            return Next::Enter;
        };
        let hit = self.vm.hit(self.hypervisor, ipa);
        if let Hit::CpuInterface(page) = hit {
            return match self.vm.memory.map_device(ipa, page, &mut self.state.cache) {
                Ok(()) => Next::Enter,
                Err(error) => Next::Leave(Return::Unresolved(error)),
            };
        }
        let context = &mut *self.state.context;
        match mmio::decode(context, &abort, ipa, length) {
            Decoded::Access(access) => {
                if hit == Hit::Nothing {
                    self.state.device_page = device_page;
                }
                self.device(access, hit)
            }
            Decoded::CacheMaintenance => {
                // An MCR, which is four bytes long in Thumb as well; its syndrome does not say (B3.13.6).
                guest_registers::skip_instruction(context, InstructionLength::Word);
                Next::Enter
            }
            Decoded::Stage1Walk => {
                inject::data_abort(context, far, abort.write, FaultStatus::SyncExternal);
                Next::Enter
            }
            Decoded::Undescribed => self.undescribed(&abort, ipa, far),
        }
    }

    /// A load or store that says of itself only where it went: it is read from the guest's memory.
    fn undescribed(&mut self, abort: &DataAbort, ipa: Ipa, far: u32) -> Next {
        let Some(opcode) = transfer::fetch(&self.hypervisor.host, &self.vm.memory, &self.state.context) else {
            return Next::Enter;
        };
        trace::note(&self.hypervisor.host, Kind::MmioEmulate, || {
            let (pc, cpsr) = (self.state.context.pc.into(), self.state.context.cpsr.into());
            Event::MmioEmulate { pc, instruction: opcode.bits().into(), cpsr }
        });
        self.vcpu.statistics.instructions_read.count();
        let mut transfer = match Transfer::begin(&mut self.state.context, opcode, abort, ipa, far) {
            Ok(transfer) => transfer,
            Err(Refused::Changed) => return Next::Enter,
            Err(Refused::Unsupported) if self.vm.undescribed_to_process.load(Ordering::Relaxed) => {
                let esr_iss = syndrome::without_instruction(self.state.context.exit.hsr).into();
                return Next::Leave(Return::Exit(Exit::ArmNisv { esr_iss, fault_ipa: ipa.get() }));
            }
            Err(Refused::Unsupported) => return Next::Leave(Return::NoSyndrome),
        };
        let mut next = transfer.access();
        while let Some(access) = next {
            let value = match self.vm.hit(self.hypervisor, access.ipa) {
                Hit::Distributor(offset) => self.distributor(&access, offset),
                _ if self.write_to_bus(&access) => 0,
                _ => {
                    self.state.pending = Some(Instruction::Transfer(transfer));
                    count_for_process(&self.hypervisor.host, self.vcpu, self.state);
                    return Next::Leave(Return::Asks);
                }
            };
            next = transfer.advance(&access, u64::from(value).to_le_bytes(), &mut self.state.context);
        }
        Next::Enter
    }

    /// A load or store where a device may be: the distributor is here, all others are the process's.
    fn device(&mut self, access: Pending, hit: Hit) -> Next {
        let Hit::Distributor(offset) = hit else {
            return if self.is_left_to_process(access) { Next::Leave(Return::Asks) } else { Next::Enter };
        };
        let value = self.distributor(&access, offset);
        access.finish_with_value(&mut self.state.context, value);
        Next::Enter
    }

    /// A load or store of a device of the process's, which may have said that it need not see a store at once. False: it was so, and
    /// the instruction is done.
    #[inline(always)]
    pub(super) fn is_left_to_process(&mut self, access: Pending) -> bool {
        if self.write_to_bus(&access) {
            access.finish_with_value(&mut self.state.context, 0);
            return false;
        }
        self.state.pending = Some(Instruction::Plain(access));
        count_for_process(&self.hypervisor.host, self.vcpu, self.state);
        true
    }

    /// The distributor's answer to an access; zero to a store.
    fn distributor(&mut self, access: &Pending, offset: u32) -> u32 {
        let number = self.number;
        if Vgic::<H::Array<Interrupt>>::needs_others_out(offset) {
            // What they have in list registers is taken in when they come out.
            if !self.vm.all_but(number).is_empty() {
                self.hypervisor.host.exit_all_guests();
            }
        }
        let len = access.size.bytes();
        let result = self.vm.with_vgic(|vgic| match access.written_value() {
            Some(value) => (0, vgic.dist_write(number, offset, len, value)),
            None => (vgic.dist_read(number, offset, len), Kicks::NONE),
        });
        let (value, kicks) = result.unwrap_or((0, Kicks::NONE));
        self.vm.kick(kicks.without(number));
        self.vcpu.statistics.mmio_exit_kernel.count();
        note_mmio(&self.hypervisor.host, access.ipa, access.size, || match access.written_value() {
            Some(written) => (MMIO_WRITE, written.into()),
            None => (MMIO_READ, value.into()),
        });
        value
    }

    fn write_to_bus(&self, access: &Pending) -> bool {
        write_to_bus(&self.hypervisor.host, self.vm, self.vcpu, access)
    }
}

/// Tells of an access to a device: what kind of event it is, and the value.
#[inline(always)]
pub(super) fn note_mmio<H: Host>(host: &H, ipa: Ipa, size: AccessSize, what: impl FnOnce() -> (u64, u64)) {
    trace::note(host, Kind::Mmio, || {
        let (kind, value) = what();
        Event::Mmio { kind, len: size.bytes().into(), ipa: ipa.get(), value }
    });
}

/// Whether an access is a store that something of the VM's bus takes.
#[inline(always)]
pub(super) fn write_to_bus<H: Host>(host: &H, vm: &Vm<H>, vcpu: &Vcpu<H>, access: &Pending) -> bool {
    access.written().is_some_and(|bytes| store_to_bus(host, vm, vcpu, access.ipa, access.size, bytes))
}

#[inline(never)]
fn store_to_bus<H: Host>(host: &H, vm: &Vm<H>, vcpu: &Vcpu<H>, ipa: Ipa, size: AccessSize, bytes: [u8; 8]) -> bool {
    let taken = vm.bus.write(ipa.get(), size.bytes(), bytes);
    if taken {
        vcpu.statistics.mmio_exit_kernel.count();
        note_mmio(host, ipa, size, || (MMIO_WRITE, u64::from_le_bytes(bytes)));
    }
    taken
}

/// Counts and tells of the access that now waits for the process's answer.
#[inline(always)]
pub(super) fn count_for_process<H: Host>(host: &H, vcpu: &Vcpu<H>, state: &VcpuState<H>) {
    vcpu.statistics.mmio_exit_user.count();
    if host.watched().any() {
        note_for_process(host, state);
    }
}

#[cold]
#[inline(never)]
fn note_for_process<H: Host>(host: &H, state: &VcpuState<H>) {
    if let Some(access) = state.pending.as_ref().and_then(Instruction::access) {
        note_mmio(host, access.ipa, access.size, || match access.written() {
            Some(bytes) => (MMIO_WRITE, u64::from_le_bytes(bytes)),
            None => (MMIO_UNSATISFIED, 0),
        });
    }
}
