// SPDX-License-Identifier: GPL-2.0-only
//! Into the list registers and out of them.
//!
//! **In.** If all interrupts of the vCPU's queue fit, all are loaded. If not, the most urgent *pending* one always gets a
//! register, for it may preempt whatever is active; then come active ones, most urgent first, since those end first; then
//! more pending ones. For what stays outside:
//!
//! - pending: HCR.NPIE, so that the guest is left when no loaded one is pending any more. Until then the next to be
//!   acknowledged is among the loaded ones, which are all more urgent. (HCR.UIE, "one or none valid", would not do: handlers
//!   that stay active could keep the registers valid and a more urgent interrupt out.) As a group that the guest enables or
//!   disables in its CPU interface changes who comes next, that too brings it out (HCR.VGrp0EIE and so on);
//! - active: HCR.LRENPIE. The guest's end of such an interrupt finds no register and counts in HCR.EOICount; ends come in
//!   order of running priority, so each concerns the most urgent active one outside. (With EOImode set it is the write to
//!   GICV_DIR that counts, in any order; a caller that cares lets those exit and calls `Vgic::deactivate`.)
//!
//! An active SGI whose sender nobody knows, since a process made it active, stays outside in any case.
//!
//! A register asks for notice at the end of its interrupt (LR.EOI) where there is then something to see to: a level-sensitive
//! interrupt's line must be sampled again, another source's request for the same SGI may follow (two must not be loaded at
//! once), or a pending state was held back. An edge that came in while its interrupt is active is loaded as pending and
//! active, and needs no notice; level-sensitive ones are never loaded so, as the line may fall before the end.
//!
//! **Out.** Active is what the register says. A pending bit that stands for a latch or an SGI's source goes back there,
//! unless it was cleared from outside; one that stands for a line is forgotten, as the line itself tells. Registers keep the
//! order that they were filled in, so nothing that is read from hardware serves as an index.
//!
//! Source: ARM IHI 0048B, 5.2 and 5.3.

use super::{Interrupt, Kicks, Vgic};
use crate::vgic::interrupt::Flags;
use crate::vgic::queue::bits;
use arch::gic::{ListRegister, SGIS, gich};
use core::ops::DerefMut;

/// List registers that are used at most. Cores have four.
pub const LIST_REGISTERS: usize = 16;

/// Ends that one exit can report: one for each list register, and all that HCR.EOICount can count.
pub(super) const ENDS: usize = LIST_REGISTERS + 31;

/// A vCPU's virtual interface as the hardware has it.
///
/// Before the guest is entered write, in this order: `vmcr`, `apr`, `lr[..used]`, zero to registers from `used` on that are
/// not zero already, and last `hcr`. After it was left read `vmcr` always, and, unless `used` and `apr` are zero and `hcr` is
/// only En, also `hcr`, `apr` and `lr[..used]`; then write zero to HCR, which silences the maintenance interrupt. (With
/// nothing loaded and nothing running, nothing but `vmcr` can change. With `apr` not zero the guest may still end what the
/// distributor was told to deactivate: were that not read, the running priority would stand for ever.)
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CpuInterface {
    /// GICH_HCR: En, and what brings the guest out.
    pub hcr: u32,
    /// GICH_VMCR: the guest's GICV_CTLR, PMR, BPR and ABPR. Zero after reset.
    pub vmcr: u32,
    /// GICH_APR: active priorities. Zero after reset.
    pub apr: u32,
    /// GICH_LR. Empty from `used` on.
    pub lr: [ListRegister; LIST_REGISTERS],
    /// How many list registers are in use, from the first on.
    pub used: usize,
}

impl CpuInterface {
    /// What [`Vgic::enter`] makes of it where the vCPU is not concerned by any interrupt.
    pub fn load_nothing(&mut self) {
        for register in self.lr.iter_mut().take(self.used) {
            *register = ListRegister::EMPTY;
        }
        self.used = 0;
        self.hcr = gich::HCR_EN;
    }

    /// Whether the guest may have changed more than VMCR.
    pub fn is_in_use(&self) -> bool {
        self.used != 0 || self.apr != 0 || self.hcr != gich::HCR_EN
    }
}

/// What [`Vgic::exit`] found.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Exit<'a> {
    /// Other vCPUs that must look: an interrupt has become theirs.
    pub kicks: Kicks,
    ended: &'a [u16],
}

impl Exit<'_> {
    /// Level-sensitive SPIs that the guest ended and that somebody resamples ([`Vgic::resampled`]). Their lines are low.
    pub fn ended(&self) -> impl Iterator<Item = u32> + '_ {
        self.ended.iter().map(|&intid| intid.into())
    }
}

/// Whether the CPU interface with this VMCR would let a pending interrupt through: its group is enabled, and it is more
/// urgent than the mask. The running priority is not looked at.
pub(super) fn passes_interface(interrupt: &Interrupt, vmcr: u32) -> bool {
    group_enabled(interrupt, vmcr) && u32::from(interrupt.priority >> 3) < vmcr >> gich::VMCR_PMR_SHIFT
}

fn group_enabled(interrupt: &Interrupt, vmcr: u32) -> bool {
    vmcr & if interrupt.is(Flags::GROUP1) { gich::VMCR_GRP1_EN } else { gich::VMCR_GRP0_EN } != 0
}

/// The most urgent of many interrupts, in order.
struct Choice {
    /// Sort key above, interrupt number in the lower ten bits.
    keys: [u32; LIST_REGISTERS],
    /// How many were offered.
    offered: usize,
}

impl Choice {
    const fn new() -> Self {
        Self { keys: [u32::MAX; LIST_REGISTERS], offered: 0 }
    }

    fn offer(&mut self, rank: u32, intid: u32) {
        self.offered += 1;
        let mut key = rank << 10 | intid;
        for slot in &mut self.keys {
            if key < *slot {
                core::mem::swap(slot, &mut key);
            }
        }
    }

    /// The `count` most urgent, at most as many as there are list registers and as were offered.
    fn best(&self, count: usize) -> impl Iterator<Item = u32> + '_ {
        self.keys.iter().take(count.min(self.offered)).map(|key| key & 0x3ff)
    }
}

impl<S: DerefMut<Target = [Interrupt]>> Vgic<S> {
    /// Prepares a vCPU's entry into the guest: fills `cpu.lr`, `cpu.used` and `cpu.hcr`. `cpu.vmcr` and `cpu.apr` stay what
    /// the last exit brought. [`Self::exit`] must follow before anybody else enters with this vCPU; where it did not, what
    /// `cpu` still holds is taken back first.
    pub fn enter(&mut self, vcpu: usize, cpu: &mut CpuInterface) {
        if self.vcpus.get(vcpu).is_some_and(|state| state.used != 0) {
            let _ = self.exit(vcpu, cpu);
        }
        let before = core::mem::take(&mut cpu.used);
        cpu.hcr = gich::HCR_EN;
        self.fill(vcpu, cpu);
        if cpu.used < before {
            for register in cpu.lr.iter_mut().take(before).skip(cpu.used) {
                *register = ListRegister::EMPTY;
            }
        }
    }

    fn fill(&mut self, vcpu: usize, cpu: &mut CpuInterface) {
        let Some(state) = self.vcpus.get(vcpu) else { return };
        if state.queue.len() > self.list_registers {
            return self.fill_with_choice(vcpu, cpu);
        }
        // All fit, whatever their order.
        for index in bits(state.queue.occupied()) {
            let word = self.vcpus.get(vcpu).map_or(0, |state| state.queue.word(index));
            for bit in bits(word) {
                self.load(vcpu, index * 32 + bit, true, cpu);
            }
        }
    }

    /// More interrupts than registers: the module's head says who comes first.
    #[cold]
    #[inline(never)]
    fn fill_with_choice(&mut self, vcpu: usize, cpu: &mut CpuInterface) {
        let Some(state) = self.vcpus.get(vcpu) else { return };
        let mut active = Choice::new();
        let mut pending = Choice::new();
        for intid in state.queue.iter() {
            let Some(interrupt) = self.interrupt(vcpu, intid) else { continue };
            if interrupt.has_lost_sender(intid) {
                cpu.hcr |= gich::HCR_LRENPIE;
            } else if interrupt.is(Flags::ACTIVE) {
                active.offer(interrupt.active_priority.into(), intid);
            } else if self.deliverable(interrupt, intid, vcpu) {
                // Those that the CPU interface holds back by group must not keep others out.
                let rank = u32::from(interrupt.priority >> 3);
                pending.offer(rank | u32::from(!group_enabled(interrupt, cpu.vmcr)) << 5, intid);
            }
        }
        let room_beside_active = self.list_registers.saturating_sub(active.offered);
        let load_pending = pending.offered.min(room_beside_active.max(1));
        let load_active = active.offered.min(self.list_registers - load_pending);
        if pending.offered > load_pending {
            cpu.hcr |= gich::HCR_NPIE;
            cpu.hcr |= if cpu.vmcr & gich::VMCR_GRP0_EN != 0 { gich::HCR_VGRP0DIE } else { gich::HCR_VGRP0EIE };
            cpu.hcr |= if cpu.vmcr & gich::VMCR_GRP1_EN != 0 { gich::HCR_VGRP1DIE } else { gich::HCR_VGRP1EIE };
        }
        if active.offered > load_active {
            cpu.hcr |= gich::HCR_LRENPIE;
        }
        // While pending ones wait outside, NPIE must mean that of the loaded ones none can be acknowledged: no register may be
        // pending because it is pending and active.
        let all_pending_loaded = pending.offered == load_pending;
        for intid in pending.best(load_pending) {
            self.load(vcpu, intid, all_pending_loaded, cpu);
        }
        for intid in active.best(load_active) {
            self.load(vcpu, intid, all_pending_loaded, cpu);
        }
    }

    /// Puts one interrupt of the vCPU's queue into the next list register, if it is active or to be signalled.
    #[inline(never)]
    fn load(&mut self, vcpu: usize, intid: u32, may_be_both: bool, cpu: &mut CpuInterface) {
        let place = self.place(vcpu, intid as usize);
        let Some(interrupt) = self.interrupts.get(place) else { return };
        let active = interrupt.is(Flags::ACTIVE);
        // It stands in the queue because it is active here, or because it is to be signalled to this vCPU, whose distributor may not
        // forward it.
        let forwards = self.forwards(interrupt);
        if !active && !forwards {
            return;
        }
        if interrupt.has_lost_sender(intid) {
            cpu.hcr |= gich::HCR_LRENPIE;
            return;
        }
        // After the end of the handler under way it is to be signalled again: here, or to another vCPU.
        let again = active && self.signalled(interrupt, intid, vcpu);
        let again_here = again && forwards && self.target(interrupt) == Some(vcpu);
        let is_sgi = (intid as usize) < SGIS;
        let Some(interrupt) = self.interrupts.get_mut(place) else { return };

        let mut lr = ListRegister::new(intid, interrupt.priority)
            .with_group1(interrupt.is(Flags::GROUP1))
            .with_active(active)
            .with_pending(!active);
        let mut latch = false;
        let mut notice = false;
        if is_sgi {
            let sources = interrupt.sources();
            let source = if active { u32::from(interrupt.active_source & 7) } else { sources.trailing_zeros() & 7 };
            lr = lr.with_source(source);
            let this = 1 << source;
            if !active || (again_here && may_be_both && sources == this) {
                lr = lr.with_pending(true);
                latch = true;
                interrupt.remove_sources(this);
            }
            notice = interrupt.sources() != 0;
        } else if !active {
            latch = interrupt.set(Flags::LATCH, false);
            notice = !interrupt.is(Flags::EDGE);
        } else if again_here && interrupt.is(Flags::EDGE) && !interrupt.is(Flags::HARDWARE) && may_be_both {
            lr = lr.with_pending(true);
            latch = interrupt.set(Flags::LATCH, false);
        } else {
            notice = again || !interrupt.is(Flags::EDGE);
        }
        match interrupt.hardware() {
            // A latch that was held back has no physical interrupt behind it that would fire again: notice is needed, which
            // one tied to hardware cannot give. Its physical end is then left to `hw_active`.
            Some(physical) if !(active && interrupt.is(Flags::LATCH)) => lr = lr.with_hardware(physical.into()),
            _ if notice => lr = lr.with_eoi_notice(),
            _ => {}
        }
        interrupt.load(vcpu as u8, latch);

        let Some(state) = self.vcpus.get_mut(vcpu) else { return };
        if let (Some(slot), Some(register)) = (state.loaded.get_mut(state.used), cpu.lr.get_mut(state.used)) {
            *slot = intid as u16;
            *register = lr;
            state.used += 1;
            cpu.used = state.used;
        }
    }

    /// Takes in what a stay in the guest did: the counterpart of [`Self::enter`], with what was read from the hardware. Must
    /// come before any other call in the name of this vCPU, but for [`Self::write_sgir`].
    pub fn exit(&mut self, vcpu: usize, cpu: &CpuInterface) -> Exit<'_> {
        self.ended_count = 0;
        let mut kicks = Kicks::NONE;
        let Some(state) = self.vcpus.get_mut(vcpu) else { return self.exit_with(kicks) };
        let used = core::mem::take(&mut state.used);
        let loaded = state.loaded;
        let uncounted = gich::eoi_count(cpu.hcr);
        if uncounted != 0 {
            kicks = self.end_outside(vcpu, uncounted);
        }
        for (&intid, &lr) in loaded.iter().zip(&cpu.lr).take(used) {
            kicks |= self.take_back(vcpu, intid.into(), lr);
        }
        self.exit_with(kicks.without(vcpu))
    }

    /// Ends active interrupts that are in no list register. Before the registers are taken in, those not loaded are those that the
    /// ends counted can have meant.
    #[cold]
    #[inline(never)]
    fn end_outside(&mut self, vcpu: usize, count: u32) -> Kicks {
        let mut kicks = Kicks::NONE;
        for _ in 0..count {
            let Some(intid) = self.first_active_outside(vcpu) else { break };
            if let Some(interrupt) = self.interrupt_mut(vcpu, intid) {
                interrupt.flags.remove(Flags::ACTIVE);
            }
            self.note_end(intid);
            kicks |= self.settle(vcpu, intid);
        }
        kicks
    }

    /// Takes one interrupt out of its list register.
    #[inline(never)]
    fn take_back(&mut self, vcpu: usize, intid: u32, lr: ListRegister) -> Kicks {
        let place = self.place(vcpu, intid as usize);
        let Some(interrupt) = self.interrupts.get_mut(place) else { return Kicks::NONE };
        let Some(stay) = interrupt.unload() else { return Kicks::NONE };
        let latch = stay.contains(Flags::LOADED_LATCH);
        let source = lr.source() as u8;
        let was_active = interrupt.set(Flags::ACTIVE, lr.active());
        if lr.active() {
            // Acknowledged in this stay, be it once more: a pending bit went in beside an active one and is gone.
            if !was_active || (latch && !lr.pending()) {
                interrupt.active_priority = lr.priority();
            }
            interrupt.active_on = vcpu as u8;
            interrupt.active_source = source;
        }
        if lr.pending() && latch {
            if (intid as usize) < SGIS {
                interrupt.add_sources(1 << source);
            } else {
                interrupt.flags |= Flags::LATCH;
            }
        }
        if stay.intersects(Flags::ORDERED_ACTIVE.union(Flags::ORDERED_INACTIVE)) {
            interrupt.order_active(stay.contains(Flags::ORDERED_ACTIVE), vcpu as u8);
        }
        if lr.eoi_notice() && !lr.valid() {
            self.note_end(intid);
        }
        self.settle_unloaded(place, vcpu, intid)
    }

    /// Follows up the end of an interrupt that somebody resamples, if it is level-sensitive. Its line falls here and not when who
    /// drives it hears of the end: by then another vCPU, which the interrupt is to go to next, would have taken it once more.
    /// [`Self::settle`] follows.
    pub(super) fn note_end(&mut self, intid: u32) {
        if !self.resampled.contains(intid) {
            return;
        }
        let Some(interrupt) = self.interrupt_mut(0, intid) else { return };
        if interrupt.is(Flags::EDGE) {
            return;
        }
        interrupt.flags.remove(Flags::LINE);
        if let Some(slot) = self.ended.get_mut(self.ended_count) {
            *slot = intid as u16;
            self.ended_count += 1;
        }
    }

    /// What was noted, with these kicks.
    pub(super) fn exit_with(&self, kicks: Kicks) -> Exit<'_> {
        Exit { kicks, ended: self.ended.get(..self.ended_count).unwrap_or_default() }
    }

    /// The active interrupt in no list register that the guest's next uncounted end means.
    fn first_active_outside(&self, vcpu: usize) -> Option<u32> {
        let state = self.vcpus.get(vcpu)?;
        let outside = |intid: &u32| {
            self.interrupt(vcpu, *intid)
                .is_some_and(|interrupt| interrupt.is(Flags::ACTIVE) && !interrupt.is(Flags::LOADED))
        };
        state
            .queue
            .iter()
            .filter(outside)
            .min_by_key(|&intid| self.interrupt(vcpu, intid).map_or(u8::MAX, |interrupt| interrupt.active_priority))
    }
}
