// SPDX-License-Identifier: GPL-2.0-only
//! What a vCPU is made of and what state it is in: targets, features, power, pending exceptions.

/// Target: Cortex-A15.
pub const KVM_ARM_TARGET_CORTEX_A15: u32 = 0;
/// Target: Cortex-A7.
pub const KVM_ARM_TARGET_CORTEX_A7: u32 = 1;
/// How many targets KVM/ARM knew.
pub const KVM_ARM_NUM_TARGETS: u32 = 2;

/// Number of a feature: the vCPU starts powered off, until PSCI's CPU_ON.
pub const KVM_ARM_VCPU_POWER_OFF: u32 = 0;
/// Number of a feature: PSCI 0.2 or later, instead of 0.1.
pub const KVM_ARM_VCPU_PSCI_0_2: u32 = 1;
/// How many features there are; a greater one is refused (ENOENT).
pub const KVM_VCPU_MAX_FEATURES: u32 = 2;

/// The argument of `KVM_ARM_VCPU_INIT` and the answer of `KVM_ARM_PREFERRED_TARGET` (`struct kvm_vcpu_init`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuInit {
    /// The kind of core.
    pub target: u32,
    /// A bitmap: feature n is bit n % 32 of word n / 32.
    pub features: [u32; 7],
}
layout!(VcpuInit, 32, features @ 4);

impl VcpuInit {
    /// Whether feature `number` is asked for; false beyond the bitmap.
    pub fn has(&self, number: u32) -> bool {
        self.features.get((number / 32) as usize).is_some_and(|word| word >> (number % 32) & 1 == 1)
    }

    /// Asks for feature `number`; nothing happens beyond the bitmap.
    pub fn set(&mut self, number: u32) {
        if let Some(word) = self.features.get_mut((number / 32) as usize) {
            *word |= 1 << (number % 32);
        }
    }
}

/// The vCPU can run, or runs.
pub const KVM_MP_STATE_RUNNABLE: u32 = 0;
/// The vCPU is powered off.
pub const KVM_MP_STATE_STOPPED: u32 = 5;

/// The argument of `KVM_GET_MP_STATE` and `KVM_SET_MP_STATE` (`struct kvm_mp_state`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MpState {
    /// [`KVM_MP_STATE_RUNNABLE`] or [`KVM_MP_STATE_STOPPED`].
    pub mp_state: u32,
}
layout!(MpState, 4);

/// The argument of `KVM_GET_VCPU_EVENTS` and `KVM_SET_VCPU_EVENTS` (`struct kvm_vcpu_events`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuEvents {
    /// An asynchronous abort (SError in the words of 64-bit Arm) is pending.
    pub serror_pending: u8,
    /// It comes with a syndrome: never on 32-bit Arm (EINVAL).
    pub serror_has_esr: u8,
    /// Set only: take a synchronous external data abort.
    pub ext_dabt_pending: u8,
    /// Must be 0.
    pub pad: [u8; 5],
    /// The syndrome.
    pub serror_esr: u64,
    /// Must be 0.
    pub reserved: [u32; 12],
}
layout!(VcpuEvents, 64, serror_has_esr @ 1, ext_dabt_pending @ 2, pad @ 3, serror_esr @ 8, reserved @ 16);

/// The head of the argument of `KVM_SET_SIGNAL_MASK` (`struct kvm_signal_mask`); `len` bytes of signal set follow it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalMask {
    /// Must be 8, the kernel's own size of a signal set.
    pub len: u32,
}
layout!(SignalMask, 4);

/// The argument of `KVM_SET_GUEST_DEBUG` (`struct kvm_guest_debug`), which 32-bit Arm refuses; its own part is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestDebug {
    /// What to do.
    pub control: u32,
    /// Unused.
    pub pad: u32,
}
layout!(GuestDebug, 8, pad @ 4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_bits_and_nothing_lies_beyond_them() {
        let mut init = VcpuInit::default();
        init.set(KVM_ARM_VCPU_PSCI_0_2);
        init.set(33);
        init.set(224);
        assert_eq!(init.features, [2, 2, 0, 0, 0, 0, 0]);
        assert!(init.has(KVM_ARM_VCPU_PSCI_0_2) && init.has(33));
        assert!(!init.has(KVM_ARM_VCPU_POWER_OFF) && !init.has(224) && !init.has(u32::MAX));
    }
}
