// SPDX-License-Identifier: GPL-2.0-only
//! The emulated GICv2 of a VM.
//!
//! A GICv2 has two halves. The *distributor* is emulated here in full: a guest's accesses to it exit, and
//! [`Vgic::dist_read`] and [`Vgic::dist_write`] answer them. The *CPU interface* is hardware: what the guest finds at GICC
//! is the virtual CPU interface GICV, where it acknowledges and ends interrupts without an exit. The two are joined by the
//! *list registers* of GICH: before a vCPU enters the guest [`Vgic::enter`] fills them with the interrupts that concern it,
//! and when it has left [`Vgic::exit`] reads back what became of them. Between those calls the hardware has the word about
//! loaded interrupts; orders that others give meanwhile are noted beside them, and the vCPU is kicked to take them in.
//!
//! An interrupt concerns one vCPU at a time: the one it is active on, else the lowest-numbered of its targets (the choice
//! that the 1-N model, section 3.2.3, leaves to the implementation). Each vCPU has a [`queue::Queue`] of the interrupts
//! that are active on it or that it should take; every change of an interrupt's state ends in [`Vgic::settle`], which moves
//! it to the right queue and says who must look. Who must look comes back as [`Kicks`]: the caller wakes those vCPUs if they
//! sleep and makes them leave the guest if they run.
//!
//! There are few list registers (four in GIC-400) and many interrupts. What does not fit stays outside, and maintenance
//! interrupts are asked for so that the guest is left in time: the module [`list_registers`] says how.
//!
//! There is no lock in here: the VM wraps it in one. Nothing in here depends on a guest's good will: any offset, length and
//! value ends in some state of the machine above.
//!
//! Source: ARM IHI 0048B (GICv2). Where it leaves a choice, KVM's is taken: groups are stored and exist without Security
//! Extensions, PPIs are level-sensitive, SGIs can be disabled, priorities have five bits.

mod distributor;
mod enabled;
mod interrupt;
mod list_registers;
mod queue;
mod sgi;
mod state;

#[cfg(test)]
mod equivalence_tests;
#[cfg(test)]
mod hardware;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod register_tests;
#[cfg(test)]
mod state_tests;

pub use distributor::has_state_word;
pub use interrupt::Interrupt;
pub(crate) use queue::Queue;

pub use list_registers::{CpuInterface, Exit, LIST_REGISTERS};
pub use state::{Parked, StateError};

use list_registers::ENDS;

use arch::gic::{MAX_CPUS, MAX_IRQS, PRIVATE_IRQS, SGIS};
use core::ops::{BitOr, BitOrAssign, DerefMut};
use enabled::Enabled;
use interrupt::Flags;

/// A set of vCPUs that must look at their interrupts: to be woken if they wait, and to leave the guest if they run.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[must_use]
pub struct Kicks(u8);

impl Kicks {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// One vCPU. Numbers from eight on name nobody.
    pub const fn one(vcpu: usize) -> Self {
        Self(if vcpu < MAX_CPUS { 1 << vcpu } else { 0 })
    }

    /// A bit for each vCPU.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Nobody is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this vCPU is in it.
    pub const fn contains(self, vcpu: usize) -> bool {
        self.0 & Self::one(vcpu).0 != 0
    }

    /// The same without one vCPU.
    pub const fn without(self, vcpu: usize) -> Self {
        Self(self.0 & !Self::one(vcpu).0)
    }

    /// The vCPUs' numbers, ascending.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        queue::bits(self.0.into()).map(|vcpu| vcpu as usize)
    }
}

impl BitOr for Kicks {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Kicks {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// Why a [`Vgic`] could not be made, or a request to it makes no sense. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// Not 1 to 8 vCPUs, or a vCPU that the VM does not have.
    Vcpu,
    /// Not 64 to 1024 interrupts in a multiple of 32, or storage for fewer.
    Size,
    /// No such interrupt, or not one that this can be asked of: an SGI has no input, only a PPI is tied to hardware.
    Interrupt,
}

/// What is kept for each vCPU besides its interrupts.
#[derive(Clone, Copy, Debug)]
struct Vcpu {
    /// Interrupts that are active on it, and enabled pending ones that it should take.
    queue: Queue,
    /// Interrupts in its list registers, in their order.
    loaded: [u16; LIST_REGISTERS],
    /// How many of those.
    used: usize,
}

/// The GICv2 of one VM. `S` holds the interrupts: [`Vgic::storage`] says how many.
#[derive(Debug)]
pub struct Vgic<S> {
    /// GICD_CTLR: EnableGrp0 and EnableGrp1.
    ctlr: u32,
    /// Interrupts that TYPER announces, the private ones of one vCPU included.
    nr_irqs: usize,
    /// Numbers from here on are no interrupts: the last four that TYPER can announce never are.
    end: usize,
    nr_vcpus: usize,
    /// A bit for each vCPU.
    all_vcpus: u8,
    /// List registers that the hardware has and we use.
    list_registers: usize,
    vcpus: [Vcpu; MAX_CPUS],
    enabled: Enabled,
    /// Who has something in its queue.
    concerned: Kicks,
    /// The process may change groups: it has shown that it knows about them.
    groups_writable: bool,
    /// SPIs that somebody resamples.
    resampled: Queue,
    /// What the last exit ended, and how many.
    ended: [u16; ENDS],
    ended_count: usize,
    /// 32 for each vCPU, then the SPIs.
    interrupts: S,
}

impl<S: DerefMut<Target = [Interrupt]>> Vgic<S> {
    /// How many [`Interrupt`]s are to be stored for a VM with `vcpus` vCPUs and `nr_irqs` interrupts, the 32 private ones
    /// counted once.
    pub const fn storage(vcpus: usize, nr_irqs: usize) -> usize {
        vcpus.saturating_mul(PRIVATE_IRQS).saturating_add(nr_irqs.saturating_sub(PRIVATE_IRQS))
    }

    /// A GICv2 in its reset state: distributor disabled, nothing pending, priorities zero, all in group 0.
    ///
    /// `vcpus` is 1 to 8; `nr_irqs` 64 to 1024 in a multiple of 32; `interrupts` has at least [`Self::storage`] elements,
    /// whose contents do not matter; `list_registers` is what GICH_VTR says the hardware has.
    pub fn new(vcpus: usize, nr_irqs: usize, interrupts: S, list_registers: usize) -> Result<Self, Invalid> {
        if !(1..=MAX_CPUS).contains(&vcpus) {
            return Err(Invalid::Vcpu);
        }
        let sound = (64..=1024).contains(&nr_irqs) && nr_irqs.is_multiple_of(32);
        if !sound || interrupts.len() < Self::storage(vcpus, nr_irqs) {
            return Err(Invalid::Size);
        }
        let vcpu = Vcpu { queue: Queue::EMPTY, loaded: [0; LIST_REGISTERS], used: 0 };
        let mut vgic = Self {
            ctlr: 0,
            nr_irqs,
            end: nr_irqs.min(MAX_IRQS),
            nr_vcpus: vcpus,
            all_vcpus: (0xff_u32 >> (MAX_CPUS - vcpus)) as u8,
            list_registers: list_registers.clamp(1, LIST_REGISTERS),
            vcpus: [vcpu; MAX_CPUS],
            enabled: Enabled::RESET,
            concerned: Kicks::NONE,
            groups_writable: false,
            resampled: Queue::EMPTY,
            ended: [0; ENDS],
            ended_count: 0,
            interrupts,
        };
        for (index, interrupt) in vgic.interrupts.iter_mut().enumerate() {
            let vcpu = (index / PRIVATE_IRQS) as u8;
            *interrupt = match index % PRIVATE_IRQS {
                _ if index >= vcpus * PRIVATE_IRQS => Interrupt::spi(),
                intid if intid < SGIS => Interrupt::sgi(vcpu),
                _ => Interrupt::ppi(vcpu),
            };
        }
        Ok(vgic)
    }

    /// How many interrupts there are, the 32 private ones counted once.
    pub fn nr_irqs(&self) -> usize {
        self.nr_irqs
    }

    /// Drives an interrupt's input. `vcpu` says whose PPI; it does not matter for an SPI.
    ///
    /// A level-sensitive interrupt follows the line; an edge-triggered one becomes pending whenever `level` is true, and
    /// false means nothing to it.
    pub fn set_level(&mut self, vcpu: usize, intid: u32, level: bool) -> Result<Kicks, Invalid> {
        if (intid as usize) < SGIS {
            return Err(Invalid::Interrupt);
        }
        let interrupt = self.interrupt_mut(vcpu, intid).ok_or(Invalid::Interrupt)?;
        let changed = if !interrupt.is(Flags::EDGE) {
            interrupt.set(Flags::LINE, level) != level
        } else {
            level && !interrupt.set(Flags::LATCH, true)
        };
        Ok(if changed { self.settle(vcpu, intid) } else { Kicks::NONE })
    }

    /// The SPIs that somebody *resamples*: while they are level-sensitive, their line falls by itself when the guest ends them, and
    /// the end is reported ([`Exit::ended`]), so that who drives the line looks again whether it is to be up.
    pub(crate) fn resampled(&mut self) -> &mut Queue {
        &mut self.resampled
    }

    /// Ties a vCPU's PPI to a physical interrupt: when the guest deactivates the one, the hardware deactivates the other.
    /// Takes effect when the vCPU next enters.
    pub fn map_hw(&mut self, vcpu: usize, intid: u32, physical: u32) -> Result<(), Invalid> {
        if !(SGIS as u32..PRIVATE_IRQS as u32).contains(&intid) || physical as usize >= MAX_IRQS {
            return Err(Invalid::Interrupt);
        }
        self.interrupt_mut(vcpu, intid).ok_or(Invalid::Vcpu)?.set_hardware(Some(physical as u16));
        Ok(())
    }

    /// Ends what [`Self::map_hw`] began.
    pub fn unmap_hw(&mut self, vcpu: usize, intid: u32) -> Result<(), Invalid> {
        self.interrupt_mut(vcpu, intid).ok_or(Invalid::Interrupt)?.set_hardware(None);
        Ok(())
    }

    /// Whether the physical interrupt that this one is tied to must be *active* in the physical distributor while the vCPU
    /// is loaded on a CPU: the guest has it, or has yet to take it, so it must not fire at the host again.
    ///
    /// To be asked out of the guest, after the line was sampled and before [`Self::enter`], and written wherever it differs
    /// from what the physical distributor has; the guest's deactivation through a list register clears it in hardware.
    pub fn hw_active(&self, vcpu: usize, intid: u32) -> bool {
        self.interrupt(vcpu, intid).is_some_and(|interrupt| {
            interrupt.is(Flags::HARDWARE) && (interrupt.is(Flags::ACTIVE) || interrupt.reads_pending())
        })
    }

    /// Whether a vCPU that waits in WFI has something to wake up for: enabled, pending, forwarded, and past the priority mask
    /// and the group enables of its CPU interface, which `vmcr` holds as they were at its last exit.
    pub fn has_deliverable(&self, vcpu: usize, vmcr: u32) -> bool {
        let Some(state) = self.vcpus.get(vcpu) else { return false };
        state.queue.iter().any(|intid| {
            self.interrupt(vcpu, intid).is_some_and(|interrupt| {
                self.deliverable(interrupt, intid, vcpu) && list_registers::passes_interface(interrupt, vmcr)
            })
        })
    }

    /// What a guest's write to GICV_DIR says, for a caller that lets the guest's accesses to that register (the second page
    /// of the CPU interface) exit: the interrupt named in `value` is no longer active. Returns it in [`Exit`] as
    /// [`Self::exit`] would.
    ///
    /// Unlike the hardware, this finds interrupts that are in no list register and SPIs that are active on another vCPU.
    pub fn deactivate(&mut self, vcpu: usize, value: u32) -> Exit<'_> {
        let intid = value & 0x3ff;
        self.ended_count = 0;
        let mut kicks = Kicks::NONE;
        if let Some(interrupt) = self.interrupt_mut(vcpu, intid)
            && interrupt.needs_order(false)
        {
            let was_active = interrupt.is(Flags::ACTIVE);
            interrupt.order_active(false, vcpu as u8);
            if was_active {
                self.note_end(intid);
            }
            kicks = self.settle(vcpu, intid);
        }
        self.exit_with(kicks)
    }

    /// Everyone who has an interrupt queued, or loaded, since what is loaded stays in its queue. Whoever has not needs neither
    /// [`Self::enter`] nor [`Self::exit`].
    pub fn concerned(&self) -> Kicks {
        self.concerned
    }

    /// Where an interrupt is stored.
    fn index(&self, vcpu: usize, intid: u32) -> Option<usize> {
        let intid = intid as usize;
        if intid >= self.end || vcpu >= self.nr_vcpus { None } else { Some(self.place(vcpu, intid)) }
    }

    /// The same for an interrupt that is known to exist: it stands in a queue or in a list register.
    #[inline(always)]
    fn place(&self, vcpu: usize, intid: usize) -> usize {
        if intid < PRIVATE_IRQS {
            vcpu * PRIVATE_IRQS + intid
        } else {
            self.nr_vcpus * PRIVATE_IRQS + intid - PRIVATE_IRQS
        }
    }

    /// An interrupt as a vCPU sees it. `None`: the VM has no such interrupt or vCPU.
    fn interrupt(&self, vcpu: usize, intid: u32) -> Option<&Interrupt> {
        self.interrupts.get(self.index(vcpu, intid)?)
    }

    /// The same, to be changed; [`Self::settle`] must follow where pending, active, enabled, group or targets changed.
    fn interrupt_mut(&mut self, vcpu: usize, intid: u32) -> Option<&mut Interrupt> {
        let index = self.index(vcpu, intid)?;
        self.interrupts.get_mut(index)
    }

    /// The vCPU that an interrupt would be signalled to.
    fn target(&self, interrupt: &Interrupt) -> Option<usize> {
        // With one CPU, ITARGETSR does not say anything (4.3.12).
        let targets = if self.nr_vcpus == 1 { 1 } else { u32::from(interrupt.targets) };
        (targets != 0).then_some(targets.trailing_zeros() as usize)
    }

    /// The distributor forwards the interrupt to this vCPU: all conditions on this side of the CPU interface hold.
    fn deliverable(&self, interrupt: &Interrupt, intid: u32, vcpu: usize) -> bool {
        !interrupt.is(Flags::ACTIVE)
            && self.signalled(interrupt, intid, vcpu)
            && self.forwards(interrupt)
            && self.target(interrupt) == Some(vcpu)
    }

    /// Could be signalled if the distributor forwards its group: at once, or when it is no longer active.
    fn signalled(&self, interrupt: &Interrupt, intid: u32, vcpu: usize) -> bool {
        interrupt.pending() && self.enabled.contains(vcpu, intid)
    }

    /// The distributor forwards interrupts of this one's group.
    fn forwards(&self, interrupt: &Interrupt) -> bool {
        self.ctlr & if interrupt.is(Flags::GROUP1) { 2 } else { 1 } != 0
    }

    /// Follows up a change of an interrupt's state: puts it into the queue it now belongs to, and says who must look.
    ///
    /// A loaded interrupt stays where it is, and its vCPU must come out; [`Self::exit`] then settles it.
    fn settle(&mut self, vcpu: usize, intid: u32) -> Kicks {
        self.index(vcpu, intid).map_or(Kicks::NONE, |index| self.settle_at(index, vcpu, intid))
    }

    /// The same, where it was found already.
    #[inline(always)]
    fn settle_at(&mut self, index: usize, vcpu: usize, intid: u32) -> Kicks {
        match self.interrupts.get(index).and_then(Interrupt::loaded_in) {
            Some(vcpu) => Kicks::one(vcpu.into()),
            None => self.settle_unloaded(index, vcpu, intid),
        }
    }

    #[inline(never)]
    fn settle_unloaded(&mut self, index: usize, vcpu: usize, intid: u32) -> Kicks {
        let Some(interrupt) = self.interrupts.get(index) else { return Kicks::NONE };
        let (home, forwarded) = if interrupt.is(Flags::ACTIVE) {
            (Some(interrupt.active_on), false)
        } else if self.signalled(interrupt, intid, vcpu) {
            (self.target(interrupt).map(|target| target as u8), self.forwards(interrupt))
        } else {
            (None, false)
        };
        let Some(interrupt) = self.interrupts.get_mut(index) else { return Kicks::NONE };
        let (before, after) = interrupt.move_to(home);
        if before != after {
            if let Some(state) = self.vcpus.get_mut(before) {
                state.queue.remove(intid);
                if state.queue.is_empty() {
                    self.concerned = self.concerned.without(before);
                }
            }
            if let Some(state) = self.vcpus.get_mut(after) {
                state.queue.insert(intid);
                self.concerned |= Kicks::one(after);
            }
        }
        if forwarded { Kicks::one(after) } else { Kicks::NONE }
    }
}
