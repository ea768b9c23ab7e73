// SPDX-License-Identifier: GPL-2.0-only
//! One trip out of the guest and back, from any mode, with a value of the test's in every general register.
//!
//! [`go`] changes to the mode, loads r0 to r12, LR and the flags, and jumps to an exit of [`EXITS`]: the one instruction that leaves, or
//! the few that lead to it. All that it finds afterwards goes back to the [`Frame`]. No register is free to hold the frame's address but
//! SP, so SP is that of the frame: a wrong one shows by what is stored elsewhere. No exception may be taken in between: the vectors
//! are a pattern too.
//!
//! r8 to r12 of User mode and SP and LR of Supervisor mode are not the compiler's to give up outside, so `go` sets them as well,
//! where the mode has others of its own.
//!
//! From User mode the way back is an exception after all: SVC, once everything is stored, to the [`vectors`] that VBAR has during
//! such a trip. So LR_svc and SPSR_svc cannot be looked at then.

use core::arch::naked_asm;
use core::mem::offset_of;
use guests::{gic, mmio, sysreg, uart};

use crate::lost;

/// CPSR's low byte for a mode, IRQ and FIQ masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    User = 0xd0,
    Fiq = 0xd1,
    Irq = 0xd2,
    Supervisor = 0xd3,
    Abort = 0xd7,
    Undefined = 0xdb,
    System = 0xdf,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Supervisor, Self::System, Self::Irq, Self::Fiq, Self::Abort, Self::Undefined, Self::User];

    /// Whether a trip in this mode makes its own use of the bank of `other`. User mode's is System mode's, and the SVC on its way
    /// back takes Supervisor mode's SPSR.
    pub fn uses_bank_of(self, other: Self) -> bool {
        self == other || self == Self::User && matches!(other, Self::System | Self::Supervisor)
    }
}

/// What [`go`] loads and stores.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Live {
    /// r0 to r12 and LR.
    pub r: [u32; 14],
    /// CPSR: N, Z, C, V, Q and GE are set; all of it is stored.
    pub cpsr: u32,
    /// The mode's SPSR, if it has one.
    pub spsr: u32,
    /// r8 to r12 of User mode, from FIQ mode.
    pub user: [u32; 5],
    /// SP and LR of Supervisor mode, from any other.
    pub supervisor: [u32; 2],
}

impl Live {
    pub const ZERO: Self = Self { r: [0; 14], cpsr: 0, spsr: 0, user: [0; 5], supervisor: [0; 2] };
}

/// What the mode's SP points to.
#[repr(C, align(8))]
pub struct Frame {
    pub before: Live,
    pub after: Live,
    pub mode: Mode,
    /// Where to: an exit's code.
    pub exit: unsafe extern "C" fn(),
    /// Where from there: `go` sets it.
    back: u32,
    /// And from there, if by an exception.
    end: u32,
    /// Supervisor mode's stack meanwhile.
    stack: u32,
}

impl Frame {
    pub const fn new(mode: Mode, exit: &Exit) -> Self {
        Self { before: Live::ZERO, after: Live::ZERO, mode, exit: exit.code, back: 0, end: 0, stack: 0 }
    }
}

const AFTER: usize = offset_of!(Frame, after);
const _: () = assert!(offset_of!(Frame, before) == 0 && offset_of!(Live, r) == 0);

/// Makes the trip.
///
/// # Safety
/// In Supervisor mode; what the frame's exit does with its registers harms nobody.
#[unsafe(naked)]
pub unsafe extern "C" fn go(frame: *mut Frame) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r3-r11, lr}}",
        "str sp, [r0, #{stack}]",
        "adr r1, 2f",
        "str r1, [r0, #{back}]",
        "adr r1, 4f",
        "str r1, [r0, #{end}]",
        "ldr r2, [r0, #{mode}]",
        "ldr r3, [r0, #{spsr}]",
        "ldr r4, [r0, #{supervisor}]",
        "ldr r5, [r0, #{supervisor} + 4]",
        "add r1, r0, #{user}",
        "ldm r1, {{r8-r12}}",
        "mov r6, r2",
        "cmp r2, #{user_mode}", // which shares its registers with System mode, and can set nobody else's
        "moveq r6, #0xdf",
        "msr cpsr_c, r6",
        "mov sp, r0",
        "cmp r2, #0xd3", // Supervisor mode's own are the mode's
        "beq 1f",
        "msr SP_svc, r4",
        "msr LR_svc, r5",
        "1:",
        "cmp r6, #0xdf", // System mode has no SPSR
        "msrne spsr_cxsf, r3",
        "msr cpsr_c, r2",
        "ldr r1, [sp, #{cpsr}]",
        "msr cpsr_fs, r1",
        "ldr lr, [sp, #4 * 13]",
        "ldm sp, {{r0-r12}}",
        "ldr pc, [sp, #{exit}]",
        "2:",
        "str r0, [sp, #{after}]",
        "add r0, sp, #{after} + 4",
        "stm r0, {{r1-r12}}",
        "str lr, [sp, #{after} + 4 * 13]",
        "mrs r1, cpsr",
        "str r1, [sp, #{after} + {cpsr}]",
        "mov r0, sp",
        "ldr r2, [r0, #{mode}]",
        "cmp r2, #{user_mode}",
        "svceq #0", // goes on at 4
        "cmp r2, #0xdf",
        "mrsne r1, spsr",
        "strne r1, [r0, #{after} + {spsr}]",
        "cmp r2, #0xd3",
        "beq 3f",
        "mrs r4, SP_svc",
        "mrs r5, LR_svc",
        "str r4, [r0, #{after} + {supervisor}]",
        "str r5, [r0, #{after} + {supervisor} + 4]",
        "3:",
        "msr cpsr_c, #0xd3",
        "4:",
        "ldr sp, [r0, #{stack}]",
        "add r1, r0, #{after} + {user}",
        "stm r1, {{r8-r12}}",
        "pop {{r3-r11, pc}}",
        stack = const offset_of!(Frame, stack),
        back = const offset_of!(Frame, back),
        end = const offset_of!(Frame, end),
        mode = const offset_of!(Frame, mode),
        user_mode = const Mode::User as u32,
        exit = const offset_of!(Frame, exit),
        after = const AFTER,
        spsr = const offset_of!(Live, spsr),
        cpsr = const offset_of!(Live, cpsr),
        user = const offset_of!(Live, user),
        supervisor = const offset_of!(Live, supervisor),
    )
}

/// Where exceptions from User mode go during a trip: its SVC back into [`go`], with the frame's address in r0, and others, which
/// nobody asks for, to their report. SCTLR must have V, EE and TE clear.
///
/// # Safety
/// Not to be called.
#[unsafe(naked)]
pub unsafe extern "C" fn vectors() {
    naked_asm!(
        ".balign 32",
        "b 1f",
        "b 1f",
        "b 2f",
        "b 1f",
        "b 1f",
        "b 1f",
        "b 1f",
        "1:",
        "msr cpsr_c, #0xd3",
        "ldr sp, =__stack_svc",
        "b {lost}",
        "2:",
        "mrs r1, spsr", // the mode and its masks, which User mode does not see; its flags are stored
        "ldr r2, [r0, #{after} + {cpsr}]",
        "bfi r2, r1, #0, #16",
        "str r2, [r0, #{after} + {cpsr}]",
        "str sp, [r0, #{after} + {supervisor}]",
        "ldr pc, [r0, #{end}]",
        lost = sym lost,
        after = const AFTER,
        cpsr = const offset_of!(Live, cpsr),
        supervisor = const offset_of!(Live, supervisor),
        end = const offset_of!(Frame, end),
    )
}

/// A way out of the guest.
pub struct Exit {
    pub name: &'static str,
    /// Jumped to with the registers of [`Live`]; jumps back through the frame.
    pub code: unsafe extern "C" fn(),
    /// What it needs in r0, r1 and so on.
    pub inputs: &'static [u32],
    /// A bit for each register that it changes; bit 15 for the flags.
    pub outputs: u32,
    /// What one register, by its place in [`Live::r`], is afterwards, found out by other means.
    pub answer: Option<Answer>,
    /// What else it needs.
    pub need: Need,
    /// User mode can leave so, too.
    pub user: bool,
}

/// The instruction that ends every exit: `LDR pc, [sp, #back]`.
pub const BACK: u32 = 0xe59d_f000 | offset_of!(Frame, back) as u32;

/// Says of what was loaded which place has what afterwards.
pub type Answer = fn(&Live) -> (usize, u32);

/// What an exit needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// The virtual timer is going to fire, to end a wait.
    Timer,
    /// In r1 the address of a page that was never touched.
    FreshPage,
    /// In r1 the address of the last word of such a page, which is zero: ANDEQ r0, r0, r0. The instruction after it, in the next
    /// page, was written, but never fetched: it jumps back.
    FreshCode,
    /// VFP is on; d7 comes to r2 and r3.
    Vfp,
}

/// The bit of [`Exit::outputs`] for CPSR's flags.
pub const FLAGS: u32 = 1 << 15;

/// Where LR stands in [`Live::r`].
const LR: usize = 13;
/// GICD_IPRIORITYR of private interrupts that nothing uses: each vCPU has its own.
const PRIORITIES: u32 = gic::GICD_IPRIORITYR + 16;

/// An exit's code: naked, and back by the frame.
macro_rules! code {
    ($($text:literal),+) => {{
        #[unsafe(naked)]
        unsafe extern "C" fn code() {
            naked_asm!(
                ".arch_extension virt",
                ".fpu neon-vfpv4",
                $($text,)+
                "ldr pc, [sp, #{back}]",
                back = const offset_of!(Frame, back),
            )
        }
        code
    }};
}

/// Every kind of exit.
pub const EXITS: &[Exit] = &[
    Exit {
        name: "a hypercall",
        code: code!("hvc #0"),
        inputs: &[uapi::psci::PSCI_VERSION],
        outputs: 0xf,
        answer: Some(|_| (0, uapi::psci::VERSION_1_0)),
        need: Need::Nothing,
        user: false,
    },
    Exit {
        name: "an unknown hypercall",
        code: code!("hvc #0"),
        inputs: &[0xc600_ffff],
        outputs: 0xf,
        answer: Some(|_| (0, u32::MAX)),
        need: Need::Nothing,
        user: false,
    },
    Exit { name: "WFI", code: code!("wfi"), inputs: &[], outputs: 0, answer: None, need: Need::Timer, user: true },
    Exit { name: "WFE", code: code!("wfe"), inputs: &[], outputs: 0, answer: None, need: Need::Nothing, user: true },
    Exit {
        name: "a read that the kernel answers",
        code: code!("ldr r9, [r1]"),
        inputs: &[0, gic::GICD_IIDR],
        outputs: 1 << 9,
        answer: Some(|_| (9, mmio::read32(gic::GICD_IIDR))),
        need: Need::Nothing,
        user: true,
    },
    Exit {
        name: "a write and a read that the kernel answers",
        code: code!("str r10, [r1]", "ldr lr, [r1]"),
        inputs: &[0, PRIORITIES],
        outputs: 1 << 14,
        answer: Some(|before| {
            mmio::write32(PRIORITIES, before.r[10]);
            (LR, mmio::read32(PRIORITIES))
        }),
        need: Need::Nothing,
        user: true,
    },
    Exit {
        name: "a write and a read that the process answers",
        code: code!("strb r5, [r1]", "ldrb lr, [r1]"),
        inputs: &[0, uart::SCRATCH],
        outputs: 1 << 14,
        answer: Some(|before| (LR, before.r[5] & 0xff)),
        need: Need::Nothing,
        user: true,
    },
    Exit {
        name: "a load from a fresh page",
        code: code!("ldr r12, [r1]"),
        inputs: &[],
        outputs: 1 << 12,
        answer: None,
        need: Need::FreshPage,
        user: true,
    },
    Exit {
        name: "a store to a fresh page",
        code: code!("str r12, [r1]"),
        inputs: &[],
        outputs: 0,
        answer: None,
        need: Need::FreshPage,
        user: true,
    },
    Exit {
        name: "a fetch from a fresh page",
        code: code!("bx r1"),
        inputs: &[],
        outputs: 0,
        answer: None,
        need: Need::FreshCode,
        user: true,
    },
    Exit {
        name: "a trapped read that User mode may do",
        code: code!("mrc p15, 0, r10, c9, c14, 0"), // PMUSERENR
        inputs: &[],
        outputs: 1 << 10,
        answer: Some(|_| (10, 0)),
        need: Need::Nothing,
        user: true,
    },
    Exit {
        name: "a trapped read",
        code: code!("mrc p15, 0, r10, c1, c0, 1"), // ACTLR
        inputs: &[],
        outputs: 1 << 10,
        answer: Some(|_| (10, sysreg::actlr::read())),
        need: Need::Nothing,
        user: false,
    },
    Exit {
        name: "a trapped write",
        code: code!("mcr p15, 0, r10, c1, c0, 1"),
        inputs: &[],
        outputs: 0,
        answer: None,
        need: Need::Nothing,
        user: false,
    },
    Exit {
        name: "a trapped read of 64 bits",
        code: code!("mrrc p15, 2, r4, r11, c14"), // CNTP_CVAL
        inputs: &[],
        outputs: 1 << 4 | 1 << 11,
        answer: Some(|_| (11, (sysreg::cntp_cval::read() >> 32) as u32)),
        need: Need::Nothing,
        user: true,
    },
    Exit {
        name: "VFP's first use after the process's answer",
        code: code!("ldrb r9, [r1]", "vmov r2, r3, d7"),
        inputs: &[0, uart::SCRATCH],
        outputs: 1 << 2 | 1 << 3 | 1 << 9,
        answer: None,
        need: Need::Vfp,
        user: true,
    },
    Exit {
        name: "VFP's use after the kernel's answer",
        code: code!("ldr r9, [r1]", "vmov r2, r3, d7"),
        inputs: &[0, gic::GICD_IIDR],
        outputs: 1 << 2 | 1 << 3 | 1 << 9,
        answer: None,
        need: Need::Vfp,
        user: true,
    },
    Exit {
        name: "answers of the kernel, the process and the kernel",
        code: code!("ldr r9, [r1]", "strb r5, [r2]", "ldr r9, [r1]", "hvc #0"),
        inputs: &[0xc600_ffff, gic::GICD_IIDR, uart::SCRATCH],
        outputs: 0xf | 1 << 9,
        answer: Some(|_| (9, mmio::read32(gic::GICD_IIDR))),
        need: Need::Nothing,
        user: false,
    },
    Exit {
        name: "an answer of the kernel, and a wait",
        code: code!("ldr r9, [r1]", "wfi", "ldr r9, [r1]"),
        inputs: &[0, gic::GICD_IIDR],
        outputs: 1 << 9,
        answer: Some(|_| (9, mmio::read32(gic::GICD_IIDR))),
        need: Need::Timer,
        user: true,
    },
    Exit {
        name: "the host's interrupts",
        // Until 2^18 ticks of the virtual count are over: some of the host's clock's, however fast the machine is.
        code: code!(
            "mrrc p15, 1, r0, r1, c14",
            "1: mrrc p15, 1, r2, r3, c14",
            "sub r4, r2, r0",
            "cmp r4, #0x40000",
            "blo 1b"
        ),
        inputs: &[],
        outputs: 0x1f | FLAGS,
        answer: None,
        need: Need::Nothing,
        user: true,
    },
];
