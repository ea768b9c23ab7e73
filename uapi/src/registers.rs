// SPDX-License-Identifier: GPL-2.0-only
//! Registers one by one: the 64-bit ids of `KVM_GET_ONE_REG`, `KVM_SET_ONE_REG` and `KVM_GET_REG_LIST`.
//!
//! An id says the architecture (bits 63:56, 0x40 for 32-bit Arm), the size (55:52, two to that power bytes), the coprocessor (27:16) and
//! the register in it (15:0). Coprocessor 15 is itself, packed as MCR names it; from 16 on they are KVM's: core registers,
//! registers that need an index (CCSIDR), VFP, firmware (PSCI's version).
//!
//! [`Register::from_id`] is where an id from a process becomes a type; which of the registers exist is for the module to say.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6, section 4.68.

/// Which bits say the architecture.
pub const KVM_REG_ARCH_MASK: u64 = 0xff00_0000_0000_0000;
/// The architecture: 32-bit Arm.
pub const KVM_REG_ARM: u64 = 0x4000_0000_0000_0000;
/// Which bits say the size.
pub const KVM_REG_SIZE_MASK: u64 = 0x00f0_0000_0000_0000;
/// Where the size is.
pub const KVM_REG_SIZE_SHIFT: u32 = 52;
/// Four bytes.
pub const KVM_REG_SIZE_U32: u64 = 0x0020_0000_0000_0000;
/// Eight bytes.
pub const KVM_REG_SIZE_U64: u64 = 0x0030_0000_0000_0000;
/// Which bits say the coprocessor.
pub const KVM_REG_ARM_COPROC_MASK: u64 = 0x0fff_0000;
/// Where the coprocessor is.
pub const KVM_REG_ARM_COPROC_SHIFT: u32 = 16;

const CP15: u64 = 15;
const CORE: u64 = 0x10;
const DEMUX: u64 = 0x11;
const VFP: u64 = 0x12;
const FIRMWARE: u64 = 0x14;

const fn id(size: u64, coprocessor: u64, register: u64) -> u64 {
    KVM_REG_ARM | size | coprocessor << KVM_REG_ARM_COPROC_SHIFT | register
}

/// The core register at 32-bit word `index` of [`Regs`]: see [`core_index`].
pub const fn core_reg(index: u16) -> u64 {
    id(KVM_REG_SIZE_U32, CORE, index as u64)
}

/// The 32-bit CP15 register of `MRC p15, op1, <Rt>, crn, crm, op2`. Fields wider than the instruction's lose their upper bits.
pub const fn cp15_32(op1: u8, crn: u8, crm: u8, op2: u8) -> u64 {
    id(
        KVM_REG_SIZE_U32,
        CP15,
        (crn as u64 & 15) << 11 | (crm as u64 & 15) << 7 | (op1 as u64 & 15) << 3 | op2 as u64 & 7,
    )
}

/// The 64-bit CP15 register of `MRRC p15, op1, <Rt>, <Rt2>, crm`.
pub const fn cp15_64(op1: u8, crm: u8) -> u64 {
    id(KVM_REG_SIZE_U64, CP15, (crm as u64 & 15) << 7 | (op1 as u64 & 15) << 3)
}

/// CCSIDR for the value `csselr` of CSSELR: bit 0 instruction cache, bits 3:1 the level from 0.
pub const fn ccsidr(csselr: u8) -> u64 {
    id(KVM_REG_SIZE_U32, DEMUX, csselr as u64)
}

/// VFP register d`number`, 0 to 31.
pub const fn vfp_double(number: u8) -> u64 {
    id(KVM_REG_SIZE_U64, VFP, number as u64)
}

const fn vfp_system(number: u64) -> u64 {
    id(KVM_REG_SIZE_U32, VFP, number)
}

/// VFP: FPSID.
pub const KVM_REG_ARM_VFP_FPSID: u64 = vfp_system(0x1000);
/// VFP: FPSCR.
pub const KVM_REG_ARM_VFP_FPSCR: u64 = vfp_system(0x1001);
/// VFP: MVFR1.
pub const KVM_REG_ARM_VFP_MVFR1: u64 = vfp_system(0x1006);
/// VFP: MVFR0.
pub const KVM_REG_ARM_VFP_MVFR0: u64 = vfp_system(0x1007);
/// VFP: FPEXC.
pub const KVM_REG_ARM_VFP_FPEXC: u64 = vfp_system(0x1008);
/// VFP: FPINST.
pub const KVM_REG_ARM_VFP_FPINST: u64 = vfp_system(0x1009);
/// VFP: FPINST2.
pub const KVM_REG_ARM_VFP_FPINST2: u64 = vfp_system(0x100a);

/// Firmware: the version of PSCI that the guest sees.
pub const KVM_REG_ARM_PSCI_VERSION: u64 = id(KVM_REG_SIZE_U64, FIRMWARE, 0);
/// Firmware: state of SMCCC_ARCH_WORKAROUND_1 (0 not available, 1 available, 2 not needed).
pub const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1: u64 = id(KVM_REG_SIZE_U64, FIRMWARE, 1);
/// Firmware: state of SMCCC_ARCH_WORKAROUND_2 (0 not available, 1 unknown, 2 available, 3 not needed; bit 4: on).
pub const KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2: u64 = id(KVM_REG_SIZE_U64, FIRMWARE, 2);

/// Virtual timer: CNTV_CTL.
pub const KVM_REG_ARM_TIMER_CTL: u64 = cp15_32(0, 14, 3, 1);
/// Virtual timer: CNTVCT.
pub const KVM_REG_ARM_TIMER_CNT: u64 = cp15_64(1, 14);
/// Virtual timer: CNTV_CVAL.
pub const KVM_REG_ARM_TIMER_CVAL: u64 = cp15_64(3, 14);
/// Physical timer: CNTP_CTL.
pub const KVM_REG_ARM_PTIMER_CTL: u64 = cp15_32(0, 14, 2, 1);
/// Physical timer: CNTPCT.
pub const KVM_REG_ARM_PTIMER_CNT: u64 = cp15_64(0, 14);
/// Physical timer: CNTP_CVAL.
pub const KVM_REG_ARM_PTIMER_CVAL: u64 = cp15_64(2, 14);

/// CP15: MIDR.
pub const CP15_MIDR: u64 = cp15_32(0, 0, 0, 0);
/// CP15: MPIDR.
pub const CP15_MPIDR: u64 = cp15_32(0, 0, 0, 5);

/// Indices of core registers, for [`core_reg`].
pub mod core_index {
    /// r0; r1 to r12 follow.
    pub const R0: u16 = 0;
    /// SP of User and System mode.
    pub const SP_USR: u16 = 13;
    /// LR of User and System mode.
    pub const LR_USR: u16 = 14;
    /// PC.
    pub const PC: u16 = 15;
    /// CPSR.
    pub const CPSR: u16 = 16;
    /// A word of the kernel's `struct pt_regs` that means nothing for a guest, but is read and written.
    pub const ORIG_R0: u16 = 17;
    /// SP of Supervisor mode; LR and SPSR follow.
    pub const SP_SVC: u16 = 18;
    /// SP of Abort mode; LR and SPSR follow.
    pub const SP_ABT: u16 = 21;
    /// SP of Undefined mode; LR and SPSR follow.
    pub const SP_UND: u16 = 24;
    /// SP of IRQ mode; LR and SPSR follow.
    pub const SP_IRQ: u16 = 27;
    /// r8 of FIQ mode; r9 to r12, SP, LR and SPSR follow.
    pub const R8_FIQ: u16 = 30;
    /// How many there are.
    pub const COUNT: u16 = 38;
}

/// All core registers (`struct kvm_regs`): no call of Arm's moves it whole, but its layout numbers the core registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Regs {
    /// r0 to r12, SP and LR of User mode, PC, CPSR, ORIG_r0.
    pub usr_regs: [u32; 18],
    /// SP, LR, SPSR of Supervisor mode.
    pub svc_regs: [u32; 3],
    /// SP, LR, SPSR of Abort mode.
    pub abt_regs: [u32; 3],
    /// SP, LR, SPSR of Undefined mode.
    pub und_regs: [u32; 3],
    /// SP, LR, SPSR of IRQ mode.
    pub irq_regs: [u32; 3],
    /// r8 to r12, SP, LR, SPSR of FIQ mode.
    pub fiq_regs: [u32; 8],
}
layout!(Regs, 152, svc_regs @ 72, abt_regs @ 84, und_regs @ 96, irq_regs @ 108, fiq_regs @ 120);
const _: () = assert!(size_of::<Regs>() == core_index::COUNT as usize * 4);
const _: () = assert!(core::mem::offset_of!(Regs, svc_regs) == core_index::SP_SVC as usize * 4);
const _: () = assert!(core::mem::offset_of!(Regs, fiq_regs) == core_index::R8_FIQ as usize * 4);

/// The argument of `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` (`struct kvm_one_reg`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OneReg {
    /// The register.
    pub id: u64,
    /// The process's address of its value.
    pub addr: u64,
}
layout!(OneReg, 16, addr @ 8);

/// The head of the argument of `KVM_GET_REG_LIST` (`struct kvm_reg_list`); `n` ids follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegList {
    /// In: room; out: how many there are. With too little room the call fails (E2BIG) and says how many.
    pub n: u64,
}
layout!(RegList, 8);

/// A system register of VFP, by its id's low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VfpSystem {
    /// FPSID.
    Fpsid,
    /// FPSCR.
    Fpscr,
    /// MVFR1.
    Mvfr1,
    /// MVFR0.
    Mvfr0,
    /// FPEXC.
    Fpexc,
    /// FPINST.
    Fpinst,
    /// FPINST2.
    Fpinst2,
}

/// A register that a process named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// Word `index` of [`Regs`]: less than [`core_index::COUNT`].
    Core {
        /// See [`core_index`].
        index: u16,
    },
    /// A 32-bit register of CP15. Whether it exists is not known here.
    Cp15 {
        /// 0 to 7 in instructions; ids have room for 0 to 15.
        op1: u8,
        /// 0 to 15.
        crn: u8,
        /// 0 to 15.
        crm: u8,
        /// 0 to 7.
        op2: u8,
    },
    /// A 64-bit register of CP15. Whether it exists is not known here.
    Cp15Double {
        /// 0 to 15.
        op1: u8,
        /// 0 to 15.
        crm: u8,
    },
    /// CCSIDR for this value of CSSELR. Whether there is such a cache is not known here.
    Ccsidr {
        /// Bit 0 instruction cache, bits 3:1 the level from 0; unchecked.
        csselr: u8,
    },
    /// d0 to d31. Whether there are more than 16 is not known here.
    VfpDouble {
        /// 0 to 31.
        number: u8,
    },
    /// A system register of VFP.
    VfpSystem(VfpSystem),
    /// A register of the firmware's: see [`KVM_REG_ARM_PSCI_VERSION`].
    Firmware {
        /// Unchecked.
        number: u16,
    },
}

/// Why an id names no register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRegister {
    /// Bits 63:32 are not those of 32-bit Arm (EINVAL).
    NotArm,
    /// No such register, or one of another size (ENOENT).
    NoSuchRegister,
}

impl Register {
    /// Reads an id. Every bit counts: a stray one makes it no register's.
    pub const fn from_id(id: u64) -> Result<Self, BadRegister> {
        if (id & !KVM_REG_SIZE_MASK) >> 32 != KVM_REG_ARM >> 32 {
            return Err(BadRegister::NotArm);
        }
        let single = id & KVM_REG_SIZE_MASK == KVM_REG_SIZE_U32;
        let double = id & KVM_REG_SIZE_MASK == KVM_REG_SIZE_U64;
        let low = (id & 0xffff) as u16;
        // Bits 31:28 belong to no field.
        Ok(match id >> KVM_REG_ARM_COPROC_SHIFT & 0xffff {
            CORE if single && low < core_index::COUNT => Self::Core { index: low },
            CP15 if single && low & 0x8000 == 0 => Self::Cp15 {
                op1: (low >> 3 & 15) as u8,
                crn: (low >> 11 & 15) as u8,
                crm: (low >> 7 & 15) as u8,
                op2: (low & 7) as u8,
            },
            CP15 if double && low & 0xf807 == 0 => {
                Self::Cp15Double { op1: (low >> 3 & 15) as u8, crm: (low >> 7 & 15) as u8 }
            }
            DEMUX if single && low < 0x100 => Self::Ccsidr { csselr: low as u8 },
            VFP if double && low < 32 => Self::VfpDouble { number: low as u8 },
            VFP if single => Self::VfpSystem(match low {
                0x1000 => VfpSystem::Fpsid,
                0x1001 => VfpSystem::Fpscr,
                0x1006 => VfpSystem::Mvfr1,
                0x1007 => VfpSystem::Mvfr0,
                0x1008 => VfpSystem::Fpexc,
                0x1009 => VfpSystem::Fpinst,
                0x100a => VfpSystem::Fpinst2,
                _ => return Err(BadRegister::NoSuchRegister),
            }),
            FIRMWARE if double => Self::Firmware { number: low },
            _ => return Err(BadRegister::NoSuchRegister),
        })
    }

    /// The id that [`Self::from_id`] reads back.
    pub const fn id(self) -> u64 {
        match self {
            Self::Core { index } => core_reg(index),
            Self::Cp15 { op1, crn, crm, op2 } => cp15_32(op1, crn, crm, op2),
            Self::Cp15Double { op1, crm } => cp15_64(op1, crm),
            Self::Ccsidr { csselr } => ccsidr(csselr),
            Self::VfpDouble { number } => vfp_double(number),
            Self::VfpSystem(system) => match system {
                VfpSystem::Fpsid => KVM_REG_ARM_VFP_FPSID,
                VfpSystem::Fpscr => KVM_REG_ARM_VFP_FPSCR,
                VfpSystem::Mvfr1 => KVM_REG_ARM_VFP_MVFR1,
                VfpSystem::Mvfr0 => KVM_REG_ARM_VFP_MVFR0,
                VfpSystem::Fpexc => KVM_REG_ARM_VFP_FPEXC,
                VfpSystem::Fpinst => KVM_REG_ARM_VFP_FPINST,
                VfpSystem::Fpinst2 => KVM_REG_ARM_VFP_FPINST2,
            },
            Self::Firmware { number } => id(KVM_REG_SIZE_U64, FIRMWARE, number as u64),
        }
    }

    /// Bytes of the value: 4 or 8.
    pub const fn size(self) -> usize {
        1 << ((self.id() & KVM_REG_SIZE_MASK) >> KVM_REG_SIZE_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_those_of_the_original() {
        // As KVM_GET_REG_LIST of KVM/ARM (Linux 5.4, Cortex-A15) gave them.
        for (ours, theirs) in [
            (core_reg(core_index::CPSR), 0x4020_0000_0010_0010),
            (core_reg(core_index::COUNT - 1), 0x4020_0000_0010_0025),
            (KVM_REG_ARM_PSCI_VERSION, 0x4030_0000_0014_0000),
            (KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2, 0x4030_0000_0014_0002),
            (KVM_REG_ARM_TIMER_CTL, 0x4020_0000_000f_7181),
            (KVM_REG_ARM_TIMER_CNT, 0x4030_0000_000f_0708),
            (KVM_REG_ARM_TIMER_CVAL, 0x4030_0000_000f_0718),
            (CP15_MIDR, 0x4020_0000_000f_0000),
            (CP15_MPIDR, 0x4020_0000_000f_0005),
            (cp15_32(1, 0, 0, 1), 0x4020_0000_000f_0009),  // CLIDR
            (cp15_32(2, 0, 0, 0), 0x4020_0000_000f_0010),  // CSSELR
            (cp15_64(0, 2), 0x4030_0000_000f_0100),        // TTBR0
            (cp15_64(1, 2), 0x4030_0000_000f_0108),        // TTBR1
            (cp15_32(1, 9, 0, 2), 0x4020_0000_000f_480a),  // L2CTLR
            (cp15_32(0, 13, 0, 4), 0x4020_0000_000f_6804), // TPIDRPRW
            (vfp_double(31), 0x4030_0000_0012_001f),
            (KVM_REG_ARM_VFP_FPSCR, 0x4020_0000_0012_1001),
            (KVM_REG_ARM_VFP_FPEXC, 0x4020_0000_0012_1008),
            (ccsidr(2), 0x4020_0000_0011_0002),
        ] {
            assert_eq!(ours, theirs, "{ours:#x} should be {theirs:#x}");
        }
    }

    #[test]
    fn strangers_are_refused_as_kvm_refused_them() {
        assert_eq!(Register::from_id(0x6030_0000_0010_0000), Err(BadRegister::NotArm)); // 64-bit Arm
        assert_eq!(Register::from_id(core_reg(0) | 1 << 40), Err(BadRegister::NotArm));
        assert_eq!(Register::from_id(core_reg(core_index::COUNT)), Err(BadRegister::NoSuchRegister));
        assert_eq!(Register::from_id(core_reg(0) ^ 0x0010_0000_0000_0000), Err(BadRegister::NoSuchRegister)); // size
        assert_eq!(Register::from_id(vfp_double(32)), Err(BadRegister::NoSuchRegister));
        assert_eq!(Register::from_id(CP15_MIDR | 1 << 28), Err(BadRegister::NoSuchRegister));
        assert_eq!(Register::from_id(cp15_64(0, 2) | 1), Err(BadRegister::NoSuchRegister));
    }

    proptest! {
        #[test]
        fn an_id_is_refused_or_read_without_loss(high in prop_oneof![Just(0x4020_0000u64), Just(0x4030_0000), any::<u32>().prop_map(u64::from)],
                                                 coprocessor in 0..0x18u64, low: u16, stray in prop_oneof![Just(0u64), 0..0x1000u64]) {
            let id = high << 32 | stray << 20 | coprocessor << 16 | u64::from(low);
            if let Ok(register) = Register::from_id(id) {
                prop_assert_eq!(register.id(), id);
                prop_assert!(register.size() == 4 || register.size() == 8);
            }
        }
    }
}
