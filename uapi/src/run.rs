// SPDX-License-Identifier: GPL-2.0-only
//! The page that a vCPU's file maps, and why `KVM_RUN` returned.
//!
//! The union of C's `struct kvm_run` is here 32 words, [`ExitPayload`], with [`Exit`] as its typed view: [`Exit::encode`] writes the
//! words, [`Exit::decode`] reads them. The process can write the page at any time, while the kernel reads it: the kernel
//! never takes a reference into it, it copies the few words it needs and believes none of them.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6, section "The kvm_run structure".

/// Not known why; `hardware_exit_reason` is the syndrome.
pub const KVM_EXIT_UNKNOWN: u32 = 0;
/// A device access that the kernel does not answer.
pub const KVM_EXIT_MMIO: u32 = 6;
/// The guest could not be entered.
pub const KVM_EXIT_FAIL_ENTRY: u32 = 9;
/// A signal is pending.
pub const KVM_EXIT_INTR: u32 = 10;
/// The kernel cannot go on.
pub const KVM_EXIT_INTERNAL_ERROR: u32 = 17;
/// The guest asks for the end or a restart.
pub const KVM_EXIT_SYSTEM_EVENT: u32 = 24;
/// A device access that the syndrome does not describe.
pub const KVM_EXIT_ARM_NISV: u32 = 28;

/// System event: power off.
pub const KVM_SYSTEM_EVENT_SHUTDOWN: u32 = 1;
/// System event: restart.
pub const KVM_SYSTEM_EVENT_RESET: u32 = 2;
/// System event: the guest says that it has crashed.
pub const KVM_SYSTEM_EVENT_CRASH: u32 = 3;

/// Suberror of `KVM_EXIT_INTERNAL_ERROR`: an instruction could not be emulated.
pub const KVM_INTERNAL_ERROR_EMULATION: u32 = 1;
/// Suberror of `KVM_EXIT_INTERNAL_ERROR`: an exit that should not be.
pub const KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON: u32 = 4;

/// Bit of [`Run::device_irq_level`]: the virtual timer.
pub const KVM_ARM_DEV_EL1_VTIMER: u64 = 1 << 0;
/// Bit of [`Run::device_irq_level`]: the physical timer.
pub const KVM_ARM_DEV_EL1_PTIMER: u64 = 1 << 1;
/// Bit of [`Run::device_irq_level`]: the PMU.
pub const KVM_ARM_DEV_PMU: u64 = 1 << 2;

/// The 256 bytes of the union in `struct kvm_run`.
pub type ExitPayload = [u64; 32];

/// What process and kernel share about a vCPU (`struct kvm_run`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// x86 only.
    pub request_interrupt_window: u8,
    /// In: not 0 makes `KVM_RUN` return EINTR before it enters the guest.
    pub immediate_exit: u8,
    /// Unused.
    pub padding1: [u8; 6],
    /// Out: `KVM_EXIT_…`.
    pub exit_reason: u32,
    /// x86 only.
    pub ready_for_interrupt_injection: u8,
    /// x86 only.
    pub if_flag: u8,
    /// x86 only.
    pub flags: u16,
    /// x86 only.
    pub cr8: u64,
    /// x86 only.
    pub apic_base: u64,
    /// Depends on the reason: see [`Exit`].
    pub exit: ExitPayload,
    /// Which classes of shared registers the kernel fills: none on Arm.
    pub kvm_valid_regs: u64,
    /// Which classes of shared registers the process changed: none on Arm.
    pub kvm_dirty_regs: u64,
    /// Out: levels of the timers' interrupts, for a process that has its own interrupt controller.
    pub device_irq_level: u64,
    /// The rest of the 2048 bytes for shared registers.
    pub padding2: [u64; 255],
}
layout!(
    Run, 2352, immediate_exit @ 1, exit_reason @ 8, ready_for_interrupt_injection @ 12, if_flag @ 13, flags @ 14, cr8 @ 16, apic_base @ 24,
    exit @ 32, kvm_valid_regs @ 288, kvm_dirty_regs @ 296, device_irq_level @ 304,
);

/// Where the bytes of an MMIO access lie in [`Run`]: what a process fills in to answer a read.
pub const MMIO_DATA_OFFSET: usize = core::mem::offset_of!(Run, exit) + 8;

/// A device access: the payload of `KVM_EXIT_MMIO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mmio {
    /// Guest physical address.
    pub phys_addr: u64,
    /// The bytes, in the guest's order: written ones, or room for those read.
    pub data: [u8; 8],
    /// How many bytes: 1, 2, 4 or 8.
    pub len: u32,
    /// A write.
    pub is_write: bool,
}

/// The words of [`Run::exit`] that any reason of Arm's uses.
pub type ExitWords = [u64; 3];

/// Why `KVM_RUN` returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `KVM_EXIT_UNKNOWN`.
    Unknown {
        /// The syndrome, or the exit code.
        hardware_exit_reason: u64,
    },
    /// `KVM_EXIT_MMIO`.
    Mmio(Mmio),
    /// `KVM_EXIT_FAIL_ENTRY`.
    FailEntry {
        /// The hardware's reason.
        hardware_entry_failure_reason: u64,
        /// On which CPU.
        cpu: u32,
    },
    /// `KVM_EXIT_INTR`.
    Interrupted,
    /// `KVM_EXIT_INTERNAL_ERROR`.
    InternalError {
        /// `KVM_INTERNAL_ERROR_…`.
        suberror: u32,
        /// How many words of details there are.
        ndata: u32,
        /// The first two, for whoever debugs it. The payload has room for sixteen; on Arm nobody has more than one.
        data: [u64; 2],
    },
    /// `KVM_EXIT_SYSTEM_EVENT`.
    SystemEvent {
        /// `KVM_SYSTEM_EVENT_…`.
        event: u32,
        /// Unused on Arm: 0.
        flags: u64,
    },
    /// `KVM_EXIT_ARM_NISV`.
    ArmNisv {
        /// The syndrome's ISS field.
        esr_iss: u64,
        /// Guest physical address of the access.
        fault_ipa: u64,
    },
    /// A reason that Arm does not use.
    Other {
        /// The reason.
        reason: u32,
    },
}

/// Two 32-bit fields that lie in one word of the payload, the first at the lower address.
const fn pair(first: u32, second: u32) -> u64 {
    u64::from_le_bytes({
        let (a, b) = (first.to_le_bytes(), second.to_le_bytes());
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
    })
}

impl Exit {
    /// The value of [`Run::exit_reason`].
    pub const fn reason(&self) -> u32 {
        match self {
            Self::Unknown { .. } => KVM_EXIT_UNKNOWN,
            Self::Mmio(_) => KVM_EXIT_MMIO,
            Self::FailEntry { .. } => KVM_EXIT_FAIL_ENTRY,
            Self::Interrupted => KVM_EXIT_INTR,
            Self::InternalError { .. } => KVM_EXIT_INTERNAL_ERROR,
            Self::SystemEvent { .. } => KVM_EXIT_SYSTEM_EVENT,
            Self::ArmNisv { .. } => KVM_EXIT_ARM_NISV,
            Self::Other { reason } => *reason,
        }
    }

    /// The payload's words from the first on, and how many of them count: the rest of the page stays as it was.
    #[inline(always)] // Of a kind that is known where it is reported, nothing is left but its words.
    pub const fn encode(&self) -> (ExitWords, usize) {
        match *self {
            Self::Unknown { hardware_exit_reason } => ([hardware_exit_reason, 0, 0], 1),
            Self::Mmio(Mmio { phys_addr, data, len, is_write }) => {
                ([phys_addr, u64::from_le_bytes(data), pair(len, is_write as u32)], 3)
            }
            Self::FailEntry { hardware_entry_failure_reason, cpu } => {
                ([hardware_entry_failure_reason, pair(cpu, 0), 0], 2)
            }
            Self::InternalError { suberror, ndata, data } => ([pair(suberror, ndata), data[0], data[1]], 3),
            Self::SystemEvent { event, flags } => ([pair(event, 0), flags, 0], 2),
            Self::ArmNisv { esr_iss, fault_ipa } => ([esr_iss, fault_ipa, 0], 2),
            Self::Interrupted | Self::Other { .. } => ([0; 3], 0),
        }
    }

    /// Reads what the kernel wrote. Total: a length or count that makes no sense is passed on for the reader to refuse.
    pub fn decode(reason: u32, payload: &ExitWords) -> Self {
        let (low, high) = (|word: usize| payload[word] as u32, |word: usize| (payload[word] >> 32) as u32);
        match reason {
            KVM_EXIT_UNKNOWN => Self::Unknown { hardware_exit_reason: payload[0] },
            KVM_EXIT_MMIO => Self::Mmio(Mmio {
                phys_addr: payload[0],
                data: payload[1].to_le_bytes(),
                len: low(2),
                is_write: high(2) & 0xff != 0,
            }),
            KVM_EXIT_FAIL_ENTRY => Self::FailEntry { hardware_entry_failure_reason: payload[0], cpu: low(1) },
            KVM_EXIT_INTR => Self::Interrupted,
            KVM_EXIT_INTERNAL_ERROR => {
                Self::InternalError { suberror: low(0), ndata: high(0), data: [payload[1], payload[2]] }
            }
            KVM_EXIT_SYSTEM_EVENT => Self::SystemEvent { event: low(0), flags: payload[1] },
            KVM_EXIT_ARM_NISV => Self::ArmNisv { esr_iss: payload[0], fault_ipa: payload[1] },
            reason => Self::Other { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mmio_lies_where_c_puts_it() {
        let mmio = Mmio { phys_addr: 0x1122, data: [1, 2, 3, 4, 5, 6, 7, 8], len: 4, is_write: true };
        let (payload, words) = Exit::Mmio(mmio).encode();
        assert_eq!(words, 3);
        let bytes: std::vec::Vec<u8> = payload.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(bytes[..8], 0x1122u64.to_le_bytes());
        assert_eq!(bytes[8..16], mmio.data);
        assert_eq!(bytes[16..20], 4u32.to_le_bytes());
        assert_eq!(bytes[20..24], [1, 0, 0, 0]);
    }

    fn exits() -> impl Strategy<Value = Exit> {
        prop_oneof![
            any::<u64>().prop_map(|hardware_exit_reason| Exit::Unknown { hardware_exit_reason }),
            any::<(u64, [u8; 8], u32, bool)>()
                .prop_map(|(phys_addr, data, len, is_write)| { Exit::Mmio(Mmio { phys_addr, data, len, is_write }) }),
            any::<(u64, u32)>().prop_map(|(r, cpu)| Exit::FailEntry { hardware_entry_failure_reason: r, cpu }),
            Just(Exit::Interrupted),
            (any::<u32>(), 0..=2u32, any::<[u64; 2]>())
                .prop_map(|(suberror, ndata, data)| { Exit::InternalError { suberror, ndata, data } }),
            any::<(u32, u64)>().prop_map(|(event, flags)| Exit::SystemEvent { event, flags }),
            any::<(u64, u64)>().prop_map(|(esr_iss, fault_ipa)| Exit::ArmNisv { esr_iss, fault_ipa }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(exit in exits(), before: [u64; 3]) {
            let mut payload: ExitWords = before;
            let (encoded, words) = exit.encode();
            payload[..words].copy_from_slice(&encoded[..words]);
            prop_assert_eq!(Exit::decode(exit.reason(), &payload), exit);
            prop_assert!(encoded[words..].iter().all(|word| *word == 0));
        }

        #[test]
        fn decoding_is_total(reason in 0..64u32, payload: [u64; 3]) {
            prop_assert_eq!(Exit::decode(reason, &payload).reason(), reason);
        }
    }
}
