// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's context: everything that a guest can change, how it is to run, and why it stopped.
//!
//! One lives at the start of a page of its own, in the kernel's linear map, shared with Hyp mode at the same address. While
//! the vCPU runs the world switch owns it; before and after, the module does. General registers are those that Hyp mode
//! sees: r8 to r12 are User mode's, the FIQ bank is kept apart.

use arch::timer::PhysicalTimer;
use core::mem::{offset_of, size_of};

/// SP, LR and SPSR of one PL1 mode.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bank {
    /// The mode's stack pointer.
    pub sp: u32,
    /// The mode's link register.
    pub lr: u32,
    /// The mode's saved program status.
    pub spsr: u32,
}

/// The banked registers of all PL1 modes (B1.3.2): first those that the world switch always moves, then those that it may leave
/// in the hardware for a while.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Banks {
    /// Supervisor mode.
    pub svc: Bank,
    /// Abort mode.
    pub abt: Bank,
    /// Undefined mode.
    pub und: Bank,
    /// SP_usr, which System mode shares. LR_usr is Hyp mode's LR and stands in [`VcpuContext::r`].
    pub sp_usr: u32,
    /// IRQ mode.
    pub irq: Bank,
    /// FIQ mode.
    pub fiq: Bank,
    /// r8 to r12 of FIQ mode.
    pub fiq_r: [u32; 5],
}

/// The CP15 registers that are a guest's own, in the same order: always moved up to TTBCR, then those that may be left a while.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Cp15 {
    /// Translation table base 0, 64 bits, in the format that TTBCR.EAE says.
    pub ttbr0: u64,
    /// Translation table base 1.
    pub ttbr1: u64,
    /// System control.
    pub sctlr: u32,
    /// Domain access control.
    pub dacr: u32,
    /// Data fault status.
    pub dfsr: u32,
    /// Instruction fault status.
    pub ifsr: u32,
    /// Auxiliary data fault status.
    pub adfsr: u32,
    /// Auxiliary instruction fault status.
    pub aifsr: u32,
    /// Data fault address.
    pub dfar: u32,
    /// Instruction fault address.
    pub ifar: u32,
    /// PRRR, or MAIR0 with TTBCR.EAE.
    pub prrr: u32,
    /// NMRR, or MAIR1 with TTBCR.EAE.
    pub nmrr: u32,
    /// Auxiliary memory attributes 0.
    pub amair0: u32,
    /// Auxiliary memory attributes 1.
    pub amair1: u32,
    /// Vector base.
    pub vbar: u32,
    /// Context ID.
    pub contextidr: u32,
    /// User read-only thread ID.
    pub tpidruro: u32,
    /// PL1 only thread ID.
    pub tpidrprw: u32,
    /// Translation table base control.
    pub ttbcr: u32,
    /// Cache size selection.
    pub csselr: u32,
    /// Result of the last address translation.
    pub par: u64,
    /// Coprocessor access control.
    pub cpacr: u32,
    /// User read-write thread ID.
    pub tpidrurw: u32,
    /// What User mode sees of the timers.
    pub cntkctl: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// VFP and NEON registers.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Vfp {
    /// d0 to d31. Where the core has sixteen, the rest stays what it was.
    pub d: [u64; 32],
    /// Exception control.
    pub fpexc: u32,
    /// Status and control.
    pub fpscr: u32,
    /// The exceptional instruction (only while FPEXC.EX is set).
    pub fpinst: u32,
    /// The bypassed instruction (only while FPEXC.FP2V is set).
    pub fpinst2: u32,
}

/// The virtual timer (B8.1.3).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Timer {
    /// CNTVOFF: physical count minus virtual count.
    pub cntvoff: u64,
    /// CNTV_CVAL: the compare value.
    pub cval: u64,
    /// CNTV_CTL: ENABLE, IMASK, ISTATUS.
    pub ctl: u32,
    /// Keeps the size a multiple of eight.
    pub reserved: u32,
}

/// How the vCPU is to run: written by the module, read by the world switch, which changes HCR.VA only.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Control {
    /// VTTBR: the VM's stage-2 table and VMID.
    pub vttbr: u64,
    /// HCR while the guest runs, virtual interrupt bits included. Read back on the way out: VA goes when the guest takes it.
    pub hcr: u32,
    /// VPIDR: the MIDR that the guest reads.
    pub midr: u32,
    /// VMPIDR: the MPIDR that the guest reads.
    pub mpidr: u32,
    /// Non-zero where the guest has VFP: the first use is a switch, not an exit.
    pub vfp: u32,
    /// Non-zero: Hyp mode gives the [`Answers`] itself, and those of the physical timer.
    pub answers: u32,
    /// HPFAR's value for the page of the distributor; [`NO_PAGE`]: the guest has none.
    pub distributor: u32,
}

/// No page of the 40-bit IPA space has this in HPFAR, whose low four bits are zero.
pub const NO_PAGE: u32 = u32::MAX;

/// A question of the guest's whose answer does not change while it runs.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answer {
    /// What the guest asks for: r0 of a hypercall, or a syndrome with Rt zero.
    pub question: u32,
    /// What it gets.
    pub value: u32,
}

/// What Hyp mode can answer without the module.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Answers {
    /// Hypercalls, by function. r1 to r3 are zero afterwards. A function of zero is none.
    pub calls: [Answer; 4],
    /// A read of ACTLR, by syndrome; the value is what the guest reads of the register, wherever it is answered.
    pub actlr: Answer,
    /// The same for L2CTLR.
    pub l2ctlr: Answer,
}

/// Why the guest stopped: written by the world switch, read by the module.
///
/// What HSR means stands in `arch`; which fields are meaningful depends on the [`ExitCode`] that the call returned.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ExitRecord {
    /// The syndrome.
    pub hsr: u32,
    /// The faulting virtual address: HDFAR of a data abort, HIFAR of a prefetch abort.
    pub far: u32,
    /// HPFAR: the faulting IPA shifted right by eight, 4 KiB granular, in bits \[31:4\].
    pub hpfar: u32,
    /// Where the instruction is, of a data abort whose syndrome does not describe it (ISV is clear): the pages of the IPAs of its
    /// first and of its last halfword, in HPFAR's format, or [`UNRESOLVED`].
    pub code: [u32; 2],
    /// How often a VFP trap exchanged the state, since the module set this to zero.
    pub vfp_switches: u32,
    /// Non-zero when an asynchronous abort that the guest caused surfaced while Hyp mode left it.
    pub async_abort: u32,
    /// How often Hyp mode gave the answer by itself, since the module set this to zero.
    pub hyp_answers: u32,
}

/// A vCPU as the world switch sees it.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct VcpuContext {
    /// r0 to r12, then LR_usr.
    pub r: [u32; 14],
    /// Where the guest goes on: ELR_hyp.
    pub pc: u32,
    /// The guest's CPSR: SPSR_hyp.
    pub cpsr: u32,
    /// Banked registers.
    pub banks: Banks,
    /// Why it stopped.
    pub exit: ExitRecord,
    /// System registers.
    pub cp15: Cp15,
    /// The virtual timer.
    pub timer: Timer,
    /// How it is to run.
    pub control: Control,
    /// What it can be told at once.
    pub answers: Answers,
    /// The emulated physical timer.
    pub physical_timer: PhysicalTimer,
    /// Floating point.
    pub vfp: Vfp,
}

/// What [`ExitRecord::code`] has for a page that could not be found: in HPFAR's format the low four bits are zero.
pub const UNRESOLVED: u32 = 1;

/// Index of LR_usr in [`VcpuContext::r`].
pub const LR_USR: usize = 13;

/// What `enter_guest` returns: why the guest is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitCode {
    /// A synchronous exception to Hyp mode; [`ExitRecord::hsr`] says which.
    Trap,
    /// A physical interrupt is pending: it is the host's to take.
    Interrupt,
    /// The permission fault's IPA could not be resolved: another CPU is changing the tables. Run the guest again.
    Again,
    /// Hyp mode was given back on this CPU: the system is ending. Nothing ran. The module's answer, not the image's.
    Gone,
    /// A trap that the module may be able to answer at once. Only a part of the guest's state was stored: interrupts (FIQs
    /// included) stay masked until the guest is entered again, or [`Call::LeaveGuest`](crate::image::Call::LeaveGuest) has
    /// stored the rest. What was stored is all that a guest in Supervisor mode is
    /// answered with: general registers, PC and CPSR, the banks of the Supervisor, Abort and Undefined modes, CP15 up to TTBCR.
    /// A data abort that comes so is a load or store to the distributor's page, in Arm state, little-endian, and described
    /// by the syndrome.
    ShortTrap,
    /// Another VM runs under the same VMID, a check says. Nothing ran. The module's answer, not the image's.
    SharedVmid,
    /// Hyp mode itself took an exception. The vCPU is lost; the CPU's panic record says more.
    HypPanic,
}

impl ExitCode {
    /// The number that travels in r0.
    pub const fn to_raw(self) -> u32 {
        match self {
            Self::Trap => 0,
            Self::Interrupt => 1,
            Self::Again => 2,
            Self::Gone => 3,
            Self::ShortTrap => 4,
            Self::SharedVmid => 5,
            Self::HypPanic => HYP_PANIC,
        }
    }

    /// The meaning of what came back in r0.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Trap,
            1 => Self::Interrupt,
            2 => Self::Again,
            3 => Self::Gone,
            4 => Self::ShortTrap,
            5 => Self::SharedVmid,
            _ => Self::HypPanic,
        }
    }
}

/// What any Hyp call returns in r0 after an exception in Hyp mode.
pub const HYP_PANIC: u32 = 0xffff_fffe;

const _: () = assert!(offset_of!(VcpuContext, r) == 0);
const _: () = assert!(offset_of!(VcpuContext, pc) == 56 && offset_of!(VcpuContext, cpsr) == 60);
const _: () = assert!(size_of::<VcpuContext>() <= arch::addr::PAGE_SIZE);
