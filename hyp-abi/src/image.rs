// SPDX-License-Identifier: GPL-2.0-only
//! The Hyp image's header, and the calls that it offers.
//!
//! The image is a flat run of bytes, linked at [`layout::IMAGE_BASE`](crate::layout::IMAGE_BASE): constants, text, data,
//! each beginning on a page. It begins with an [`ImageHeader`], whose addresses the linker filled in. Every function that
//! the module may call is one `b` instruction in a table of its own ([`ImageHeader::entries`]), so that the check of a pointer
//! at `HVC #0` is a range and an alignment.

use arch::core_id::BranchPredictor;

/// First word of an image: "WSHY" read as a little-endian word.
pub const MAGIC: u32 = u32::from_le_bytes(*b"WSHY");
/// Counts changes of anything in this crate that both sides must agree on.
pub const ABI: u32 = 3;

/// The first words of the image. All fields are Hyp virtual addresses unless said otherwise.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ImageHeader {
    /// [`MAGIC`].
    pub magic: u32,
    /// [`ABI`].
    pub abi: u32,
    /// Where text begins (constants end). Page aligned, as the next two are.
    pub text: u32,
    /// Where data begins (text ends).
    pub data: u32,
    /// Where the image ends.
    pub end: u32,
    /// The first entry of the table of Hyp functions, in the order of [`Call`].
    pub entries: u32,
    /// The trampoline's page within text.
    pub trampoline: u32,
    /// Where the trampoline goes on with the MMU on.
    pub start: u32,
}

impl ImageHeader {
    /// Reads and checks the header of an image. `None`: not an image, of another ABI, or its parts do not lie where
    /// they belong.
    pub fn parse(image: &[u8]) -> Option<Self> {
        let word = |index: usize| -> Option<u32> {
            let bytes = image.get(index * 4..index * 4 + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let header = Self {
            magic: word(0)?,
            abi: word(1)?,
            text: word(2)?,
            data: word(3)?,
            end: word(4)?,
            entries: word(5)?,
            trampoline: word(6)?,
            start: word(7)?,
        };
        let base = crate::layout::IMAGE_BASE;
        let length = u32::try_from(image.len()).ok()?;
        let ordered = base < header.text
            && header.text < header.data
            && header.data <= header.end
            && header.end.checked_sub(base)? == length
            && length <= crate::layout::IMAGE_MAX
            && (header.text..header.data).contains(&header.entries)
            && header.data - header.entries >= CALLS * 4
            && (header.text..header.data).contains(&header.trampoline)
            && (header.text..header.data).contains(&header.start);
        let pages = header.text | header.data | header.end | header.trampoline;
        let aligned = pages & 0xfff == 0 && header.entries & 0b11 == 0;
        (header.magic == MAGIC && header.abi == ABI && ordered && aligned).then_some(header)
    }

    /// The pointer to pass in r0 for a call.
    pub const fn entry(&self, call: Call) -> u32 {
        self.entries.wrapping_add(call as u32 * 4)
    }
}

/// The functions that the module may call, in the order of the image's table. Arguments stand in r1 to r3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Call {
    /// `(context: HypVirt) -> ExitCode`: runs the vCPU until something stops it.
    EnterGuest = 0,
    /// `(vttbr: u64)`: drops every CPU's TLB entries of the VMID.
    FlushVmid = 1,
    /// `(vttbr: u64)`: drops this CPU's TLB entries of the VMID.
    FlushVmidLocal = 2,
    /// `()`: drops every CPU's stage-1 and stage-2 entries of every VMID, and instruction caches.
    FlushAll = 3,
    /// `(address: HypVirt)`: drops every CPU's entry for one page of Hyp mode's own map.
    FlushHyp = 4,
    /// `()`: gives Hyp mode back to the stub that owned it.
    Release = 5,
    /// `() -> ABI`: shows that Hyp mode answers.
    Version = 6,
    /// `(context: HypVirt, Provocation) -> HYP_PANIC`: loads the guest's state and then takes an exception in Hyp mode, to show
    /// that the host survives it.
    Provoke = 7,
    /// `()`: after [`ExitCode::ShortTrap`](crate::context::ExitCode::ShortTrap), stores the rest of the guest's state and puts the
    /// rest of the host's back.
    LeaveGuest = 8,
    /// `(a: u32, b: u32, c: u32) -> u64`: [`echo`] of its arguments, for the check of the Hyp-ABI itself.
    Echo = 9,
    /// `(wide: u64, c: u32) -> u64`: [`echo_wide`] of its arguments.
    EchoWide = 10,
}

/// A result in which each argument, and each of its halves, has a place of its own.
pub const fn echo(a: u32, b: u32, c: u32) -> u64 {
    (a as u64) << 32 ^ (b as u64) << 16 ^ c as u64 ^ 0x0123_4567_89ab_cdef
}

/// The same of an argument of 64 bits.
pub const fn echo_wide(wide: u64, c: u32) -> u64 {
    wide.rotate_left(20) ^ c as u64
}

/// What [`Call::Provoke`] does; the numbers of 1 to 4 and 6 are those of [`PanicRecord::vector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Provocation {
    /// An undefined instruction.
    Undefined = 1,
    /// HVC.
    Hvc = 2,
    /// A jump to where nothing is mapped.
    PrefetchAbort = 3,
    /// A load from where nothing is mapped.
    DataAbort = 4,
    /// Pushes until the stack meets its guard page.
    StackOverflow = 5,
    /// An interrupt, unmasked in Hyp mode: the virtual timer's.
    Interrupt = 6,
    /// What a core does when it takes an FIQ, done by instructions: no board that runs a kernel in Non-secure state signals one to it.
    Fiq = 7,
}

impl Provocation {
    /// The provocation with this number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Undefined),
            2 => Some(Self::Hvc),
            3 => Some(Self::PrefetchAbort),
            4 => Some(Self::DataAbort),
            5 => Some(Self::StackOverflow),
            6 => Some(Self::Interrupt),
            7 => Some(Self::Fiq),
            _ => None,
        }
    }
}

/// How many functions the table has.
pub const CALLS: u32 = 11;

/// What a call through a pointer that is no entry returns; nothing ran. Unlike any answer of a stub or of PSCI, so that it also tells
/// whose Hyp mode it is.
pub const BAD_CALL: u32 = u32::from_le_bytes(*b"WSNO");

/// What the trampoline is told, as the module writes it to [`TRAMPOLINE_PARAMETERS`] in the trampoline's page.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrampolineParameters {
    /// HTTBR.
    pub httbr: u64,
    /// HTCR.
    pub htcr: u32,
    /// HMAIR0.
    pub hmair0: u32,
    /// HMAIR1.
    pub hmair1: u32,
    /// Where to go on with the MMU on: [`ImageHeader::start`].
    pub entry: u32,
    /// VTCR: how stage 2 is walked, the same for every VM.
    pub vtcr: u32,
    /// How firmware helps against branch predictors: a number of [`FirmwareHardening`].
    pub firmware_hardening: u32,
}

/// Whether firmware empties branch predictors where the core has no instruction for it (SMCCC_ARCH_WORKAROUND_1, by SMC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FirmwareHardening {
    /// It does not.
    Absent = 0,
    /// It does.
    Present = 1,
    /// It is to be asked on cores that have other means, or need none, too: for tests.
    Forced = 2,
}

impl FirmwareHardening {
    /// Whether firmware is asked on a core whose branch predictor is emptied so.
    pub const fn is_wanted_for(self, predictor: BranchPredictor) -> bool {
        match self {
            Self::Absent => false,
            Self::Present => matches!(predictor, BranchPredictor::Firmware),
            Self::Forced => true,
        }
    }

    /// The one with this number.
    pub const fn from_raw(raw: u32) -> Self {
        match raw {
            1 => Self::Present,
            2 => Self::Forced,
            _ => Self::Absent,
        }
    }
}

/// Offset of the [`TrampolineParameters`] in the trampoline's page; code ends before it.
pub const TRAMPOLINE_PARAMETERS: usize = 0xf00;

/// What the panic vector leaves in the per-CPU data page, at its start, for the module to print.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PanicRecord {
    /// r0 to r12.
    pub r: [u32; 13],
    /// SP_hyp when it happened.
    pub sp: u32,
    /// LR when it happened.
    pub lr: u32,
    /// ELR_hyp: where it happened.
    pub pc: u32,
    /// SPSR_hyp.
    pub cpsr: u32,
    /// Which vector: 1 undefined, 2 HVC, 3 prefetch abort, 4 data abort, 6 IRQ or FIQ.
    pub vector: u32,
    /// HSR.
    pub hsr: u32,
    /// HDFAR.
    pub hdfar: u32,
    /// HIFAR.
    pub hifar: u32,
    /// How many panics this CPU has had.
    pub count: u32,
}
