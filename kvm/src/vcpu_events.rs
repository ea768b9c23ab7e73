// SPDX-License-Identifier: GPL-2.0-only
//! Exceptions that a process reads off a vCPU or gives it: `KVM_GET_VCPU_EVENTS`, `KVM_SET_VCPU_EVENTS`.
//!
//! An asynchronous abort (SError in the interface's words) waits until the guest takes it, so it is state, which is read and
//! written. It has no syndrome on 32-bit cores. A synchronous external data abort is taken at once, by the instruction that KVM_RUN last
//! returned for: that instruction's access is then not carried out. It is never read.
//!
//! Source: Documentation/virt/kvm/api.rst of Linux 5.6, sections 4.31 and 4.32.

use crate::host::Host;
use crate::inject;
use crate::vcpu::VcpuState;
use uapi::vcpu::VcpuEvents;

/// Something in it has no meaning here (EINVAL). Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEvents;

/// What is pending.
pub fn get<H: Host>(state: &VcpuState<H>) -> VcpuEvents {
    let serror_pending = inject::async_abort_is_pending(&state.context).into();
    VcpuEvents { serror_pending, ..VcpuEvents::default() }
}

/// Makes exceptions pending, or has them taken. What is not asked for stays as it is: an abort that is pending remains so.
pub fn set<H: Host>(state: &mut VcpuState<H>, events: &VcpuEvents) -> Result<(), BadEvents> {
    let serror = events.serror_pending != 0;
    if events.pad != [0; 5] || events.reserved != [0; 12] || (serror && events.serror_has_esr != 0) {
        return Err(BadEvents);
    }
    if serror {
        inject::async_abort(&mut state.context);
    }
    if events.ext_dabt_pending != 0 {
        state.pending = None;
        inject::external_data_abort(&mut state.context);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;
    use arch::psr::{Mode, Psr};

    fn state() -> VcpuState<fake::Host> {
        let host = fake::Host::new();
        let waiter = host.waiter().unwrap();
        let mut state = VcpuState::new(&host, &waiter).unwrap();
        (state.context.pc, state.context.cpsr) = (0x8000, Psr::in_mode(Mode::Svc).bits());
        state.context.exit.far = 0x1234;
        state
    }

    #[test]
    fn an_asynchronous_abort_is_read_back_and_stays() {
        let mut state = state();
        assert_eq!(get(&state), VcpuEvents::default());
        let pending = VcpuEvents { serror_pending: 1, ..VcpuEvents::default() };
        set(&mut state, &pending).unwrap();
        assert_eq!(get(&state), pending);
        set(&mut state, &VcpuEvents::default()).unwrap();
        assert_eq!((get(&state), state.context.pc), (pending, 0x8000));
    }

    #[test]
    fn a_data_abort_is_taken_at_once() {
        let mut state = state();
        set(&mut state, &VcpuEvents { ext_dabt_pending: 1, ..VcpuEvents::default() }).unwrap();
        assert_eq!((state.context.pc, state.context.cp15.dfar, state.context.banks.abt.lr), (0x10, 0x1234, 0x8008));
        assert_eq!(get(&state), VcpuEvents::default());
    }

    #[test]
    fn what_means_nothing_changes_nothing() {
        let fine = VcpuEvents { serror_pending: 1, ext_dabt_pending: 1, ..VcpuEvents::default() };
        let mut wrong = std::vec::Vec::from([VcpuEvents { serror_has_esr: 1, ..fine }]);
        wrong.extend((0..5).map(|byte| {
            let mut events = fine;
            events.pad[byte] = 1;
            events
        }));
        wrong.extend((0..12).map(|word| {
            let mut events = fine;
            events.reserved[word] = 1 << 31;
            events
        }));
        for events in wrong {
            let mut state = state();
            assert_eq!(set(&mut state, &events), Err(BadEvents), "{events:?}");
            assert_eq!((get(&state), state.context.pc), (VcpuEvents::default(), 0x8000), "{events:?}");
        }
        // Without a pending abort nobody asks for its syndrome.
        set(&mut state(), &VcpuEvents { serror_has_esr: 1, serror_esr: 7, ..VcpuEvents::default() }).unwrap();
    }
}
