// SPDX-License-Identifier: GPL-2.0-only
//! What a vCPU is before its first instruction.
//!
//! `KVM_ARM_VCPU_INIT` puts a vCPU into the state of a core that leaves reset: Supervisor mode, everything masked, MMU and
//! caches off. What the architecture leaves UNKNOWN is a pattern of [`registers`]. A vCPU that another powers on by PSCI starts
//! from the same state, at the entry point and with the argument that the caller gave.
//!
//! Each vCPU is a core of a virtual machine that looks like clusters of four: MPIDR says which, L2CTLR how many there are.
//!
//! Source: ARM DDI 0406C.d, B1.9.1 (reset), B4.1 (MPIDR); Cortex-A15 TRM, 4.3.48 (L2CTLR) and 4.3.28 (ACTLR).

use crate::cp15::registers::{self, Reset};
use crate::cp15::{IdRegisters, Registers};
use crate::psci::PowerOn;
use arch::core_id::{Core, Midr};
use arch::cp15::reg;
use arch::hyp_registers::Hcr;
use arch::psr::{Mode, Psr};
use arch::syndrome::Trap;
use arch::timer::PhysicalTimer;
use hyp_abi::context::{Banks, Vfp};
use uapi::{KVM_ARM_TARGET_CORTEX_A7, KVM_ARM_TARGET_CORTEX_A15};

/// Which vCPU of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The vCPU's id, from 0.
    pub vcpu: u32,
    /// How many vCPUs the VM has now.
    pub vcpus: u32,
}

/// CPSR after reset: Supervisor mode, asynchronous aborts, IRQs and FIQs masked, Arm state, little endian.
pub const CPSR: Psr = Psr::in_mode(Mode::Svc).union(Psr::MASKED);

/// HCR of a vCPU after reset. What is trapped, and why:
/// - SMC: the host's firmware is not the guest's;
/// - maintenance by set/way: see [`trap`](crate::cp15::trap);
/// - WFI and WFE: another vCPU, or the host, can use the CPU (WFI not always: [`halt_rest`](crate::halt_rest));
/// - ACTLR and implementation defined registers: they are the host's;
/// - virtual memory registers: until the guest's caches are on.
///
/// Interrupts and asynchronous aborts go to Hyp mode and reach the guest as virtual ones; barriers and maintenance by
/// the guest reach all CPUs it may run on, Inner Shareable; invalidation by set/way would clean as well, were it not trapped.
pub const HCR: Hcr = Hcr::VM
    .union(Hcr::SWIO)
    .union(Hcr::FMO)
    .union(Hcr::IMO)
    .union(Hcr::AMO)
    .union(Hcr::FB)
    .union(Hcr::BSU_IS)
    .union(Hcr::TWI)
    .union(Hcr::TWE)
    .union(Hcr::TSC)
    .union(Hcr::TIDCP)
    .union(Hcr::TAC)
    .union(Hcr::TSW)
    .union(Hcr::TVM);

/// The target of KVM_ARM_VCPU_INIT for the host's core, and the only one that it takes. Clients know two: Cortex-A7 is itself, and
/// Cortex-A15 is itself and, as the nearest, all others: a vCPU has the host's registers whatever it is called.
pub const fn target(midr: u32) -> u32 {
    match Midr::new(midr).core() {
        Core::CortexA7 => KVM_ARM_TARGET_CORTEX_A7,
        _ => KVM_ARM_TARGET_CORTEX_A15,
    }
}

/// MPIDR\[31:30\]: the multiprocessor format, and whether the host is a uniprocessor.
const MPIDR_FORMAT: u32 = 0b11 << 30;
/// ACTLR.SMP: the core takes part in coherency. The same bit in Cortex-A7, A12, A15 and A17.
const ACTLR_SMP: u32 = 1 << 6;
/// L2CTLR\[25:24\]: the cores of the cluster, less one.
const L2CTLR_CORES_SHIFT: u32 = 24;
/// Cores in a cluster.
const CLUSTER: u32 = 4;

/// The MPIDR of a vCPU: the host's format bits, and an affinity that says cluster and core.
pub const fn mpidr(host: u32, vcpu: u32) -> u32 {
    let (cluster, core) = (vcpu / CLUSTER, vcpu % CLUSTER);
    host & MPIDR_FORMAT | (cluster & 0xff) << 8 | core
}

/// ACTLR as a guest reads it: coherent if it has more than one vCPU.
const fn actlr(host: u32, vcpus: u32) -> u32 {
    if vcpus > 1 { host | ACTLR_SMP } else { host & !ACTLR_SMP }
}

/// L2CTLR as a guest reads it: how many cores its cluster has.
const fn l2ctlr(host: u32, place: Place) -> u32 {
    let first_of_cluster = place.vcpu / CLUSTER * CLUSTER;
    let others = place.vcpus.saturating_sub(1).saturating_sub(first_of_cluster);
    let others = if others < CLUSTER { others } else { CLUSTER - 1 };
    host & !(0b11 << L2CTLR_CORES_SHIFT) | others << L2CTLR_CORES_SHIFT
}

/// Resets a vCPU. What its VM gave it stays: VTTBR and the virtual counter's offset.
pub fn reset(vcpu: &mut Registers<'_>, id: &IdRegisters, place: Place) {
    let context = &mut *vcpu.context;
    context.r = [0; 14];
    context.pc = 0;
    context.cpsr = CPSR.bits();
    context.banks = Banks::default();
    context.vfp = Vfp::default();
    (context.timer.ctl, context.timer.cval) = (0, 0);
    context.control.hcr = HCR.bits();
    context.control.midr = id.midr;
    context.control.vfp = id.vfp.is_some().into();
    context.physical_timer = PhysicalTimer::default();
    context.answers.actlr.question = Trap::reads(reg::ACTLR);
    context.answers.l2ctlr.question = Trap::reads(reg::L2CTLR);
    *vcpu.orig_r0 = 0;
    for row in &registers::TABLE {
        if let Some((kept, reset)) = row.kept {
            let value = match reset {
                Reset::Value(value) => value,
                Reset::Mpidr => mpidr(id.mpidr, place.vcpu).into(),
                Reset::Actlr => actlr(id.actlr, place.vcpus).into(),
                Reset::L2ctlr => l2ctlr(id.l2ctlr, place).into(),
            };
            (kept.set)(vcpu, value);
        }
    }
}

/// Resets a vCPU and sets it going as a PSCI call asked.
pub fn power_on(vcpu: &mut Registers<'_>, id: &IdRegisters, place: Place, start: &PowerOn) {
    reset(vcpu, id, place);
    let mut cpsr = CPSR;
    cpsr.set(Psr::T, start.entry & 1 == 1);
    cpsr.set(Psr::E, start.big_endian);
    let context = &mut *vcpu.context;
    context.cpsr = cpsr.bits();
    context.pc = start.entry & !1;
    let [r0, ..] = &mut context.r;
    *r0 = start.context_id;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_itself_or_the_nearest_that_clients_know() {
        let a7 = [0x410f_c074, 0x412f_c075, 0x41ff_c07f];
        // A15 and QEMU's; A12, A17; B15; A32, A35, A53, A55, A57, A72, A73, A75; QEMU's `max`; none known.
        let a15 = [
            0x412f_c0f1,
            0x414f_c0f0,
            0x410f_c0d0,
            0x411f_c0e1,
            0x420f_00f3,
            0x410f_d010,
            0x410f_d042,
            0x410f_d034,
            0x410f_d050,
            0x411f_d071,
            0x410f_d083,
            0x410f_d092,
            0x410f_d0a0,
            0x411f_d070,
            0,
            u32::MAX,
        ];
        assert_eq!(a7.map(target), [KVM_ARM_TARGET_CORTEX_A7; 3]);
        assert_eq!(a15.map(target), [KVM_ARM_TARGET_CORTEX_A15; 16]);
        // Another maker's part of the same number is another core.
        assert_eq!(target(0x560f_c074), KVM_ARM_TARGET_CORTEX_A15);
    }
}
