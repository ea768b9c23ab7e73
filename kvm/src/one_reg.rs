// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's registers as a process reads and writes them: `KVM_GET_ONE_REG`, `KVM_SET_ONE_REG`, `KVM_GET_REG_LIST`.
//!
//! [`find`] turns an id from a process into a [`Register`] that this vCPU has; only then is there memory to read or write, of
//! [`Register::size`] bytes. [`list`] names them all in the order that KVM/ARM had: a process that saves a VM reads them in
//! this order, and restores it by writing them so.
//!
//! A value from a process may be anything. Registers of the guest take whatever a guest could write to them itself. A CPSR must
//! name a mode and state that a guest can be in, since the world switch returns to it from Hyp mode. Identification registers
//! take what they already hold.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6, sections 4.68 and 4.69.

use crate::cp15::registers::{self, Place};
use crate::cp15::{IdRegisters, Name, Registers, id_registers, trap};
use crate::psci::{Firmware, Version};
use crate::vtimer;
use arch::cp15::{Cp15, Cp15Wide};
use arch::psr::{Mode, Psr};
use hyp_abi::context::VcpuContext;
use uapi::core_index;
pub use uapi::registers::Register;
use uapi::registers::VfpSystem;

/// Why a register cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// No such register, or not of that size (ENOENT).
    NotFound,
    /// The id is not one of 32-bit Arm, or the value cannot be this register's (EINVAL).
    Invalid,
}

impl From<uapi::registers::BadRegister> for Error {
    fn from(bad: uapi::registers::BadRegister) -> Self {
        match bad {
            uapi::registers::BadRegister::NotArm => Self::Invalid,
            uapi::registers::BadRegister::NoSuchRegister => Self::NotFound,
        }
    }
}

/// What a write asks of the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// The virtual count was set: this is CNTVOFF now, for all vCPUs of the VM.
    CounterOffset(u64),
    /// The virtual timer was set: its interrupt and its deadline may have changed.
    VirtualTimer,
    /// The version of PSCI was chosen, for the VM.
    PsciVersion(Version),
}

/// What registers of a vCPU depend on beside the vCPU.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// The host's identification registers.
    pub id: &'a IdRegisters,
    /// The guest's firmware.
    pub firmware: &'a Firmware,
    /// Whether the vCPU was initialised with the PSCI_0_2 feature.
    pub psci_0_2: bool,
    /// The physical count.
    pub now: u64,
}

/// The firmware registers, by number.
const FIRMWARE_VERSION: u16 = 0;
const FIRMWARE_BRANCH_HARDENING: u16 = 1;
const FIRMWARE_STORE_BYPASS: u16 = 2;
/// Levels of [`FIRMWARE_STORE_BYPASS`] (Documentation/virt/kvm/arm/psci.rst): the workaround is there, and is in use.
const STORE_BYPASS_AVAILABLE: u64 = 2;
const STORE_BYPASS_ENABLED: u64 = 1 << 4;

/// The virtual timer's registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Timer {
    Control,
    Count,
    CompareValue,
}

const TIMERS: [(u64, Timer); 3] = [
    (uapi::KVM_REG_ARM_TIMER_CTL, Timer::Control),
    (uapi::KVM_REG_ARM_TIMER_CNT, Timer::Count),
    (uapi::KVM_REG_ARM_TIMER_CVAL, Timer::CompareValue),
];

/// What stands behind a CP15 register's id.
enum Cp15Register {
    Timer(Timer),
    Id(u32),
    Kept(Name, Place),
}

fn cp15(register: Register, id: &IdRegisters) -> Option<Cp15Register> {
    let name = match register {
        // Ids have a bit more room for opc1 than MRC has.
        Register::Cp15 { op1: 8.., .. } => return None,
        Register::Cp15 { op1, crn, crm, op2 } => Name::Word(Cp15::new(crn, op1, crm, op2)),
        Register::Cp15Double { op1, crm } => Name::Wide(Cp15Wide::new(op1, crm)),
        _ => return None,
    };
    if let Some((_, timer)) = TIMERS.iter().find(|(id, _)| *id == name.id()) {
        return Some(Cp15Register::Timer(*timer));
    }
    if let Some(value) = id.get(name) {
        return Some(Cp15Register::Id(value));
    }
    let (place, _) = registers::find(name)?.kept?;
    Some(Cp15Register::Kept(name, place))
}

/// The register that a process named, if vCPUs of this host have it.
pub fn find(raw: u64, id: &IdRegisters) -> Result<Register, Error> {
    let register = Register::from_id(raw)?;
    let exists = match register {
        Register::Core { .. } => true,
        Register::Cp15 { .. } | Register::Cp15Double { .. } => cp15(register, id).is_some(),
        Register::Ccsidr { csselr } => id.has_cache(csselr),
        Register::VfpDouble { number } => id.vfp.is_some_and(|vfp| number < vfp.doubles()),
        Register::VfpSystem(_) => id.vfp.is_some(),
        Register::Firmware { number } => number <= FIRMWARE_STORE_BYPASS,
    };
    if exists { Ok(register) } else { Err(Error::NotFound) }
}

/// The ids of all registers.
pub fn list(id: &IdRegisters) -> impl Iterator<Item = u64> {
    let core = (0..core_index::COUNT).map(uapi::core_reg);
    let firmware = [
        uapi::KVM_REG_ARM_PSCI_VERSION,
        uapi::KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1,
        uapi::KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2,
    ];
    let timers = TIMERS.iter().map(|(id, _)| *id);
    let invariant = id_registers::TABLE.iter().map(|(name, _)| name.id());
    let kept = registers::TABLE.iter().filter(|row| row.kept.is_some()).map(|row| row.name.id());
    let doubles = (0..id.vfp.map_or(0, |vfp| vfp.doubles())).map(uapi::vfp_double);
    let system = [
        uapi::KVM_REG_ARM_VFP_FPEXC,
        uapi::KVM_REG_ARM_VFP_FPSCR,
        uapi::KVM_REG_ARM_VFP_FPINST,
        uapi::KVM_REG_ARM_VFP_FPINST2,
        uapi::KVM_REG_ARM_VFP_MVFR0,
        uapi::KVM_REG_ARM_VFP_MVFR1,
        uapi::KVM_REG_ARM_VFP_FPSID,
    ];
    let vfp = doubles.chain(system.into_iter().filter(|_| id.vfp.is_some()));
    let caches = (0..id_registers::CACHES as u8).filter(|csselr| id.has_cache(*csselr)).map(uapi::ccsidr);
    core.chain(firmware).chain(timers).chain(invariant).chain(kept).chain(vfp).chain(caches)
}

/// Reads a register.
pub fn get(vcpu: &mut Registers<'_>, around: &Surroundings<'_>, register: Register) -> Result<u64, Error> {
    Ok(match register {
        Register::Core { index } => match core(vcpu, index) {
            Some(word) => (*word).into(),
            None => return Err(Error::NotFound),
        },
        Register::Cp15 { .. } | Register::Cp15Double { .. } => match cp15(register, around.id) {
            Some(Cp15Register::Timer(timer)) => get_timer(vcpu.context, timer, around.now),
            Some(Cp15Register::Id(value)) => value.into(),
            Some(Cp15Register::Kept(_, place)) => (place.get)(vcpu),
            None => return Err(Error::NotFound),
        },
        Register::Ccsidr { csselr } => around.id.cache_size(csselr).ok_or(Error::NotFound)?.into(),
        Register::VfpDouble { number } => *double(vcpu.context, around.id, number)?,
        Register::VfpSystem(register) => match vfp_system(vcpu.context, around.id, register)? {
            VfpRegister::Guest(word) => (*word).into(),
            VfpRegister::Id(value) => value.into(),
        },
        Register::Firmware { number } => firmware_level(around, number)?,
    })
}

/// Writes a register; of 32-bit registers the low word counts.
pub fn set(
    vcpu: &mut Registers<'_>,
    around: &Surroundings<'_>,
    register: Register,
    value: u64,
) -> Result<Effect, Error> {
    match register {
        Register::Core { index: core_index::CPSR } => {
            vcpu.context.cpsr = checked_cpsr(value as u32)?;
        }
        Register::Core { index } => match core(vcpu, index) {
            Some(word) => *word = value as u32,
            None => return Err(Error::NotFound),
        },
        Register::Cp15 { .. } | Register::Cp15Double { .. } => match cp15(register, around.id) {
            Some(Cp15Register::Timer(timer)) => {
                return Ok(set_timer(vcpu.context, timer, value, around.now));
            }
            Some(Cp15Register::Id(held)) => unchanged(held, value)?,
            Some(Cp15Register::Kept(name, place)) => {
                (place.set)(vcpu, value);
                if name == registers::SCTLR {
                    // As if the guest itself had switched its caches: see `trap`.
                    let on = trap::caches_are_on(vcpu.context);
                    trap::trap_virtual_memory(vcpu.context, !on);
                }
            }
            None => return Err(Error::NotFound),
        },
        Register::Ccsidr { csselr } => unchanged(around.id.cache_size(csselr).ok_or(Error::NotFound)?, value)?,
        Register::VfpDouble { number } => *double(vcpu.context, around.id, number)? = value,
        Register::VfpSystem(register) => match vfp_system(vcpu.context, around.id, register)? {
            VfpRegister::Guest(word) => *word = value as u32,
            VfpRegister::Id(held) => unchanged(held, value)?,
        },
        Register::Firmware { number } => return set_firmware(around, number, value),
    }
    Ok(Effect::None)
}

/// An identification register takes only what it holds.
fn unchanged(held: u32, value: u64) -> Result<(), Error> {
    if value as u32 == held { Ok(()) } else { Err(Error::Invalid) }
}

/// The word behind a core register's index.
fn core<'a>(vcpu: &'a mut Registers<'_>, index: u16) -> Option<&'a mut u32> {
    let VcpuContext { r, pc, cpsr, banks, .. } = &mut *vcpu.context;
    let (bank, word) = match index {
        core_index::SP_USR => return Some(&mut banks.sp_usr),
        core_index::LR_USR => return r.get_mut(hyp_abi::context::LR_USR),
        core_index::PC => return Some(pc),
        core_index::CPSR => return Some(cpsr),
        core_index::ORIG_R0 => return Some(&mut *vcpu.orig_r0),
        core_index::R0..core_index::SP_USR => return r.get_mut(usize::from(index)),
        core_index::SP_SVC..core_index::SP_ABT => (&mut banks.svc, index - core_index::SP_SVC),
        core_index::SP_ABT..core_index::SP_UND => (&mut banks.abt, index - core_index::SP_ABT),
        core_index::SP_UND..core_index::SP_IRQ => (&mut banks.und, index - core_index::SP_UND),
        core_index::SP_IRQ..core_index::R8_FIQ => (&mut banks.irq, index - core_index::SP_IRQ),
        core_index::R8_FIQ..core_index::COUNT => match index - core_index::R8_FIQ {
            number @ 0..5 => return banks.fiq_r.get_mut(usize::from(number)),
            number => (&mut banks.fiq, number - 5),
        },
        _ => return None,
    };
    Some(match word {
        0 => &mut bank.sp,
        1 => &mut bank.lr,
        _ => &mut bank.spsr,
    })
}

/// A CPSR that a guest can have: one of its modes, and not Jazelle state, which a core with Virtualization Extensions does not
/// implement. KVM/ARM refused System mode as well; a guest in it could not be moved.
fn checked_cpsr(value: u32) -> Result<u32, Error> {
    let psr = Psr::from_bits_retain(value);
    match Mode::from_psr(value) {
        Some(mode) if mode.is_guest() && (psr.contains(Psr::T) || !psr.contains(Psr::J)) => Ok(value),
        _ => Err(Error::Invalid),
    }
}

fn get_timer(context: &VcpuContext, timer: Timer, now: u64) -> u64 {
    match timer {
        Timer::Control => vtimer::control(&context.timer, now).into(),
        Timer::Count => vtimer::virtual_count(&context.timer, now),
        Timer::CompareValue => context.timer.cval,
    }
}

fn set_timer(context: &mut VcpuContext, timer: Timer, value: u64, now: u64) -> Effect {
    match timer {
        Timer::Control => context.timer.ctl = value as u32 & arch::timer::CTL_WRITABLE,
        Timer::CompareValue => context.timer.cval = value,
        Timer::Count => {
            context.timer.cntvoff = vtimer::offset_for(value, now);
            return Effect::CounterOffset(context.timer.cntvoff);
        }
    }
    Effect::VirtualTimer
}

fn double<'a>(context: &'a mut VcpuContext, id: &IdRegisters, number: u8) -> Result<&'a mut u64, Error> {
    let exists = id.vfp.is_some_and(|vfp| number < vfp.doubles());
    context.vfp.d.get_mut(usize::from(number)).filter(|_| exists).ok_or(Error::NotFound)
}

/// A system register of VFP: the guest's own, or the host's.
enum VfpRegister<'a> {
    Guest(&'a mut u32),
    Id(u32),
}

fn vfp_system<'a>(
    context: &'a mut VcpuContext,
    id: &IdRegisters,
    register: VfpSystem,
) -> Result<VfpRegister<'a>, Error> {
    let id = id.vfp.ok_or(Error::NotFound)?;
    let vfp = &mut context.vfp;
    Ok(match register {
        VfpSystem::Fpexc => VfpRegister::Guest(&mut vfp.fpexc),
        VfpSystem::Fpscr => VfpRegister::Guest(&mut vfp.fpscr),
        VfpSystem::Fpinst => VfpRegister::Guest(&mut vfp.fpinst),
        VfpSystem::Fpinst2 => VfpRegister::Guest(&mut vfp.fpinst2),
        VfpSystem::Fpsid => VfpRegister::Id(id.fpsid),
        VfpSystem::Mvfr0 => VfpRegister::Id(id.mvfr0),
        VfpSystem::Mvfr1 => VfpRegister::Id(id.mvfr1),
    })
}

fn firmware_level(around: &Surroundings<'_>, number: u16) -> Result<u64, Error> {
    match number {
        // A vCPU without the feature speaks 0.1, whatever others of the VM do.
        FIRMWARE_VERSION if !around.psci_0_2 => Ok(Version::V0_1.raw().into()),
        FIRMWARE_VERSION => Ok(around.firmware.version.raw().into()),
        FIRMWARE_BRANCH_HARDENING => Ok(around.firmware.branch_hardening.level()),
        FIRMWARE_STORE_BYPASS => Ok(around.firmware.store_bypass.level()),
        _ => Err(Error::NotFound),
    }
}

/// A version must suit the feature that the vCPU was initialised with. A workaround's level may be one that the host surpasses:
/// a VM that was told less elsewhere is none the worse here. It is not stored.
fn set_firmware(around: &Surroundings<'_>, number: u16, value: u64) -> Result<Effect, Error> {
    match number {
        FIRMWARE_VERSION => match Version::from_raw(value) {
            Some(version) if (version == Version::V0_1) != around.psci_0_2 => Ok(Effect::PsciVersion(version)),
            _ => Err(Error::Invalid),
        },
        _ => {
            // A guest that had the workaround may have turned it on, which says nothing about the host.
            let enabled = number == FIRMWARE_STORE_BYPASS && value == STORE_BYPASS_AVAILABLE | STORE_BYPASS_ENABLED;
            let level = if enabled { STORE_BYPASS_AVAILABLE } else { value };
            if level <= firmware_level(around, number)? { Ok(Effect::None) } else { Err(Error::Invalid) }
        }
    }
}

#[cfg(test)]
mod tests;
