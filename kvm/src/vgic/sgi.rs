// SPDX-License-Identifier: GPL-2.0-only
//! Software-generated interrupts: how one vCPU interrupts others.
//!
//! A write to GICD_SGIR names an SGI and whom to send it to. Each receiver keeps, for each of the sixteen, which vCPUs have
//! asked: it is to acknowledge each of them once, whose number it reads in GICC_IAR (ARM IHI 0048B, 4.3.15).

use super::{Interrupt, Kicks, Vgic};
use arch::gic::SGIS;
use core::ops::DerefMut;

/// A write to GICD_SGIR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The SGI, 0 to 15.
    pub intid: u32,
    /// Who is meant.
    pub receivers: Receivers,
}

/// GICD_SGIR.TargetListFilter, with the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receivers {
    /// Those in the list, one bit each.
    Listed(u8),
    /// All but the sender.
    Others,
    /// The sender.
    Sender,
}

impl Request {
    /// Decodes the register's value. `None`: the reserved filter, which sends nothing. NSATT has no meaning without Security
    /// Extensions.
    pub fn from_sgir(value: u32) -> Option<Self> {
        let receivers = match value >> 24 & 3 {
            0 => Receivers::Listed((value >> 16) as u8),
            1 => Receivers::Others,
            2 => Receivers::Sender,
            _ => return None,
        };
        Some(Self { intid: value & (SGIS as u32 - 1), receivers })
    }
}

impl<S: DerefMut<Target = [Interrupt]>> Vgic<S> {
    /// A vCPU's write to GICD_SGIR: sends an SGI.
    ///
    /// Unlike any other call in the name of a vCPU, it may come while what the vCPU has in list registers is not taken in yet.
    #[inline(always)]
    pub fn write_sgir(&mut self, sender: usize, value: u32) -> Kicks {
        let Some(request) = Request::from_sgir(value) else { return Kicks::NONE };
        let sender_bit = 1 << (sender & 7);
        let receivers = match request.receivers {
            Receivers::Listed(list) => list,
            Receivers::Others => !sender_bit,
            Receivers::Sender => sender_bit,
        };
        let mut kicks = Kicks::NONE;
        for receiver in super::queue::bits((receivers & self.all_vcpus).into()) {
            let place = self.place(receiver as usize, request.intid as usize);
            kicks |= self.add_sources(place, receiver as usize, request.intid, sender_bit);
        }
        kicks
    }

    /// Adds sources to a vCPU's pending SGI.
    pub(super) fn set_sources(&mut self, vcpu: usize, intid: u32, sources: u8) -> Kicks {
        let Some(place) = self.index(vcpu, intid) else { return Kicks::NONE };
        self.add_sources(place, vcpu, intid, sources & self.all_vcpus)
    }

    /// The same, for sources that are vCPUs of the VM, where the interrupt is.
    #[inline(always)]
    fn add_sources(&mut self, place: usize, vcpu: usize, intid: u32, sources: u8) -> Kicks {
        let Some(interrupt) = self.interrupts.get_mut(place) else { return Kicks::NONE };
        if sources & !interrupt.sources() == 0 {
            return Kicks::NONE;
        }
        interrupt.add_sources(sources);
        self.settle_at(place, vcpu, intid)
    }

    /// Takes sources away from a vCPU's pending SGI.
    pub(super) fn clear_sources(&mut self, vcpu: usize, intid: u32, sources: u8) -> Kicks {
        let Some(interrupt) = self.interrupt_mut(vcpu, intid) else { return Kicks::NONE };
        if sources & interrupt.sources() == 0 {
            return Kicks::NONE;
        }
        interrupt.remove_sources(sources);
        self.settle(vcpu, intid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sgir_is_decoded_as_the_manual_has_it() {
        let listed = Request { intid: 15, receivers: Receivers::Listed(0xa5) };
        assert_eq!(Request::from_sgir(0x00a5_800f), Some(listed));
        assert_eq!(Request::from_sgir(0x01ff_0003), Some(Request { intid: 3, receivers: Receivers::Others }));
        assert_eq!(Request::from_sgir(0x0200_fff0), Some(Request { intid: 0, receivers: Receivers::Sender }));
        assert_eq!(Request::from_sgir(0x0300_0000), None);
    }
}
