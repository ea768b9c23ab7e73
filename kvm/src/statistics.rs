// SPDX-License-Identifier: GPL-2.0-only
//! Counts of what guests did, for people who look at a host: `kvm_stat`, by the names that it knows.
//!
//! Each vCPU has its own. Only the thread that runs it counts, so that counting is a load, an addition and a store, and no atomic
//! operation stands on the way of an exit. Anybody reads: a VM's figure is the sum over its vCPUs, less what it was when somebody
//! cleared it. Nothing that is counted is ever set back.
//!
//! A [`Counter`] has 64 bits on a CPU that stores 32 at a time. The upper word changes once in 2^32 steps; it is odd while
//! it does, and a reader that meets that moment takes the count at which it happened.
//!
//! What Hyp mode answers by itself is no exit and shows in `hyp_answers` alone. Hyp mode counts that in the vCPU's context, from
//! where the thread takes it over at the end of each stay in the guest.
//!
//! Source: arch/arm/include/asm/kvm_host.h of Linux 5.6 for KVM's names and what they count.

use crate::atomic::{AtomicU32, Ordering, fence};
use crate::host::{Host, Lock};
use crate::vm::Vm;
use core::ffi::CStr;

/// A number that one thread counts up and any thread reads.
#[derive(Debug, Default)]
pub struct Counter {
    low: AtomicU32,
    /// Twice the upper word; odd while `low` wraps.
    high: AtomicU32,
}

impl Counter {
    /// One more. Only ever called by one thread at a time.
    #[inline(always)]
    pub fn count(&self) {
        self.add(1);
    }

    /// So many more. Only ever called by one thread at a time.
    #[inline(always)]
    pub fn add(&self, more: u32) {
        let (low, wraps) = self.low.load(Ordering::Relaxed).overflowing_add(more);
        if wraps {
            self.carry(low);
        } else {
            self.low.store(low, Ordering::Relaxed);
        }
    }

    #[cold]
    #[inline(never)]
    fn carry(&self, low: u32) {
        let high = self.high.load(Ordering::Relaxed);
        self.high.store(high.wrapping_add(1), Ordering::Relaxed);
        // Whoever sees the new low word sees that the upper one changes.
        fence(Ordering::Release);
        self.low.store(low, Ordering::Relaxed);
        self.high.store(high.wrapping_add(2), Ordering::Release);
    }

    /// The count.
    pub fn read(&self) -> u64 {
        let before = self.high.load(Ordering::Acquire);
        let low = self.low.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = self.high.load(Ordering::Relaxed);
        let word = |high: u32| u64::from(high) << 32;
        if before == after && before.is_multiple_of(2) {
            word(before / 2) | u64::from(low)
        } else {
            word(after.div_ceil(2))
        }
    }
}

/// Makes [`VcpuStatistics`], [`Statistic`] and the names of one list, so that none lacks in another.
macro_rules! statistics {
    ($($(#[$doc:meta])* $field:ident = $variant:ident,)*) => {
        /// What is counted for each vCPU.
        #[derive(Debug, Default)]
        pub struct VcpuStatistics {
            $($(#[$doc])* pub $field: Counter,)*
        }

        /// What is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Statistic {
            $($(#[$doc])* $variant,)*
            /// How often a VM's TLB entries were dropped on all CPUs.
            RemoteTlbFlush,
        }

        impl Statistic {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)* Self::RemoteTlbFlush];

            /// The name of its file.
            pub const fn name(self) -> &'static CStr {
                let name = match self {
                    $(Self::$variant => concat!(stringify!($field), "\0"),)*
                    Self::RemoteTlbFlush => "remote_tlb_flush\0",
                };
                match CStr::from_bytes_with_nul(name.as_bytes()) {
                    Ok(name) => name,
                    Err(_) => c"",
                }
            }
        }

        impl VcpuStatistics {
            /// A figure of this vCPU's; zero for those that are the VM's.
            pub fn read(&self, which: Statistic) -> u64 {
                match which {
                    $(Statistic::$variant => self.$field.read(),)*
                    Statistic::RemoteTlbFlush => 0,
                }
            }
        }
    };
}

statistics! {
    /// Exits for a hypercall.
    hvc_exit_stat = HvcExit,
    /// Exits for WFE.
    wfe_exit_stat = WfeExit,
    /// Exits for WFI.
    wfi_exit_stat = WfiExit,
    /// Accesses to devices of the process.
    mmio_exit_user = MmioExitUser,
    /// Accesses to devices of the kernel: the distributor.
    mmio_exit_kernel = MmioExitKernel,
    /// Exits to the host's kernel, of every kind.
    exits = Exits,
    /// Waits in WFI that were over while the thread polled before it slept.
    halt_successful_poll = HaltSuccessfulPoll,
    /// Waits in which it polled.
    halt_attempted_poll = HaltAttemptedPoll,
    /// Of the successful ones, those that ended for nothing. That exists on other architectures; here it is zero, as it was in KVM/ARM.
    halt_poll_invalid = HaltPollInvalid,
    /// How often a vCPU slept in WFI and was woken.
    halt_wakeup = HaltWakeup,
    /// Nanoseconds of polls that were successful, as later kernels' KVM has it.
    halt_poll_success_ns = HaltPollSuccessNs,
    /// Nanoseconds of polls after which the thread slept.
    halt_poll_fail_ns = HaltPollFailNs,
    /// Exits for an interrupt of the host's.
    irq_exits = IrqExits,
    /// Returns to the process for a signal.
    signal_exits = SignalExits,
    /// Stage-2 aborts, those of devices included, save what the distributor answered at once.
    guest_faults = GuestFaults,
    /// Loads and stores whose instruction was read from memory: the syndrome does not describe it, or is not believed.
    instructions_read = InstructionsRead,
    /// Flushes of all a guest's memory for its cache maintenance by set and way.
    set_way_flushes = SetWayFlushes,
    /// Flushes of all a guest's memory since it switched its caches on or off.
    cache_toggles = CacheToggles,
    /// Trips to Hyp mode that it answered by itself.
    hyp_answers = HypAnswers,
    /// How often a guest's first use of VFP and NEON exchanged the registers.
    vfp_switches = VfpSwitches,
}

/// What a VM's figures were when they were cleared last.
pub struct Cleared([u64; Statistic::ALL.len()]);

impl Default for Cleared {
    fn default() -> Self {
        Self([0; Statistic::ALL.len()])
    }
}

impl<H: Host> Vm<H> {
    /// A figure since it was cleared last.
    pub fn statistic(&self, which: Statistic) -> u64 {
        let cleared = self.cleared.lock().0.get(which as usize).copied();
        self.counted(which).wrapping_sub(cleared.unwrap_or(0))
    }

    /// Starts a figure anew from zero.
    pub fn clear_statistic(&self, which: Statistic) {
        let now = self.counted(which);
        if let Some(cleared) = self.cleared.lock().0.get_mut(which as usize) {
            *cleared = now;
        }
    }

    fn counted(&self, which: Statistic) -> u64 {
        match which {
            Statistic::RemoteTlbFlush => self.memory.tlb_flushes(),
            _ => self.vcpus().fold(0, |sum, (_, vcpu)| sum.wrapping_add(vcpu.statistics.read(which))),
        }
    }
}

#[cfg(test)]
#[path = "statistics_tests.rs"]
mod tests;
