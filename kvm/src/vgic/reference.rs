// SPDX-License-Identifier: GPL-2.0-only
//! A GICv2 as the manual describes it, for tests: no list registers, no exits, every change takes effect at once. Written
//! apart from the code under test, in the plainest way; the 1-N choice (lowest-numbered target) is the one thing shared.

use std::vec::Vec;

/// One interrupt: an SPI (vCPU 0 stands for all), or a vCPU's own.
#[derive(Clone, Debug, Default)]
pub struct Irq {
    pub enabled: bool,
    pub group1: bool,
    pub edge: bool,
    pub latch: bool,
    pub line: bool,
    pub sources: u8,
    pub priority: u8,
    pub targets: u8,
    pub active: bool,
    /// Its line falls when it ends.
    pub resampled: bool,
}

impl Irq {
    fn pending(&self, intid: u32) -> bool {
        if intid < 16 { self.sources != 0 } else { self.latch || (self.line && !self.edge) }
    }

    /// It has ended.
    pub fn resample(&mut self) {
        if self.resampled && !self.edge {
            self.line = false;
        }
    }
}

/// A vCPU's CPU interface.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    pub groups: u32,
    pub pmr: u8,
    /// What is being handled, innermost last: interrupt, source, priority when acknowledged.
    pub handling: Vec<(u32, u32, u8)>,
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Reference {
    pub ctlr: u32,
    pub cpus: Vec<Cpu>,
    /// 32 for each vCPU, then the SPIs.
    irqs: Vec<Irq>,
    nr_irqs: u32,
}

impl Reference {
    pub fn new(vcpus: usize, nr_irqs: u32) -> Self {
        let private = (0..vcpus * 32).map(|index| {
            let sgi = index % 32 < 16;
            Irq { enabled: sgi, edge: sgi, targets: 1 << (index / 32), ..Irq::default() }
        });
        let irqs = private.chain((32..nr_irqs).map(|_| Irq::default())).collect();
        let cpus = (0..vcpus).map(|_| Cpu::default()).collect();
        Self { ctlr: 0, cpus, irqs, nr_irqs }
    }

    fn index(&self, vcpu: usize, intid: u32) -> usize {
        let private = if intid < 32 { vcpu } else { self.cpus.len() - 1 };
        private * 32 + intid as usize
    }

    pub fn irq(&mut self, vcpu: usize, intid: u32) -> &mut Irq {
        let index = self.index(vcpu, intid);
        &mut self.irqs[index]
    }

    fn get(&self, vcpu: usize, intid: u32) -> &Irq {
        &self.irqs[self.index(vcpu, intid)]
    }

    /// What the distributor forwards to this vCPU.
    pub fn forwarded(&self, vcpu: usize) -> Vec<u32> {
        (0..self.nr_irqs)
            .filter(|&intid| {
                let irq = self.get(vcpu, intid);
                let mine = self.cpus.len() == 1 || (irq.targets != 0 && irq.targets.trailing_zeros() as usize == vcpu);
                let group = if irq.group1 { 2 } else { 1 };
                mine && irq.enabled && irq.pending(intid) && !irq.active && self.ctlr & group != 0
            })
            .collect()
    }

    /// Of those, what passes the group enables and the mask of its CPU interface.
    pub fn unmasked(&self, vcpu: usize) -> Vec<u32> {
        let cpu = &self.cpus[vcpu];
        let mut all = self.forwarded(vcpu);
        all.retain(|&intid| {
            let irq = self.get(vcpu, intid);
            irq.priority < cpu.pmr && cpu.groups & if irq.group1 { 2 } else { 1 } != 0
        });
        all
    }

    /// What a read of GICC_IAR may return: the most urgent ones, if they preempt what is being handled.
    pub fn acknowledgeable(&self, vcpu: usize) -> Vec<u32> {
        let running = self.cpus[vcpu].handling.iter().map(|handled| handled.2).min().unwrap_or(u8::MAX);
        let mut all = self.unmasked(vcpu);
        let best = all.iter().map(|&intid| self.get(vcpu, intid).priority).min();
        all.retain(|&intid| Some(self.get(vcpu, intid).priority) == best && best < Some(running));
        all
    }

    /// GICC_IAR returned this.
    pub fn acknowledge(&mut self, vcpu: usize, intid: u32, source: u32) {
        let irq = self.irq(vcpu, intid);
        irq.active = true;
        irq.latch = false;
        irq.sources &= !(1 << source);
        let priority = irq.priority;
        self.cpus[vcpu].handling.push((intid, source, priority));
    }

    /// The guest ends what it took last.
    pub fn end(&mut self, vcpu: usize) -> Option<(u32, u32)> {
        let (intid, source, _) = self.cpus[vcpu].handling.pop()?;
        let irq = self.irq(vcpu, intid);
        irq.active = false;
        irq.resample();
        Some((intid, source))
    }
}
