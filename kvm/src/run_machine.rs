// SPDX-License-Identifier: GPL-2.0-only
//! A VM on the fake host, for tests of KVM_RUN, with guests that do what a script says.

use super::*;
use crate::cp15::IdRegisters;
use crate::fake;
use crate::memslots::Region;
use crate::vgic::Parked;
use crate::vm::{self, Hardware, PhysicalGic};
use arch::addr::{HostPhys, HostVirt, Ipa};
use arch::cp15::Cp15;
use arch::gic::{gicd, gich};
pub use arch::syndrome::ISV;
use hyp_abi::context::VcpuContext;
use std::boxed::Box;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

pub const DIST: u64 = 0x2c00_1000;
pub const CPU: u64 = 0x2c00_2000;
pub const GICV: u64 = 0x2c06_0000;
pub const NOWHERE: u64 = 0x1c00_0000;
pub const RAM: u64 = 0x8000_0000;
pub const PHYS: u64 = 0x9_0000_0000;
pub const HVA: HostVirt = HostVirt::new(0x1000_0000);
/// Where each guest begins.
pub const START: u32 = 0x8000_4000;
/// Where each guest has its vectors.
pub const VECTORS: u32 = 0x4000_0000;
/// The upper bits of the virtual addresses of its aborts.
pub const FAR: u32 = 0xc123_4000;
/// VMCR of a guest that takes all interrupts of group 0.
pub const OPEN: u32 = 0x1f << gich::VMCR_PMR_SHIFT | gich::VMCR_GRP0_EN;

/// IL, CV and COND of an unconditional Arm instruction.
pub const ALWAYS: u32 = 1 << 25 | 1 << 24 | 0xe << 20;
pub const WFI: u32 = 0x01 << 26 | ALWAYS;
pub const CM: u32 = 1 << 8;
pub const S1PTW: u32 = 1 << 7;

/// One stay in the guest.
pub type Step = Box<dyn FnOnce(&mut VcpuContext) -> ExitCode + Send>;

/// A stay that begins so many bytes behind [`START`].
pub fn at(offset: u32, step: impl FnOnce(&mut VcpuContext) -> ExitCode + Send + 'static) -> Step {
    Box::new(move |context| {
        assert_eq!(context.pc, START + offset, "the guest is somewhere else");
        step(context)
    })
}

pub fn trap(context: &mut VcpuContext, hsr: u32) -> ExitCode {
    context.exit.hsr = hsr;
    ExitCode::Trap
}

/// An abort with this syndrome at this address.
pub fn fault(context: &mut VcpuContext, hsr: u32, ipa: u64) -> ExitCode {
    context.exit.far = FAR | (ipa as u32 & 0xfff);
    context.exit.hpfar = (ipa >> 8) as u32 & !0xf;
    trap(context, hsr)
}

/// The syndrome of `ldr rt`: a translation fault of level 3.
pub fn load(rt: u32) -> u32 {
    0x24 << 26 | 1 << 25 | ISV | 2 << 22 | rt << 16 | 0x07
}

/// The syndrome of `str rt`.
pub fn store(rt: u32) -> u32 {
    load(rt) | 1 << 6
}

/// The syndrome of an instruction fetch.
pub fn fetch() -> u32 {
    0x20 << 26 | 1 << 25 | 0x07
}

/// The syndrome of an unconditional `mrc`; with bit 0 clear, of `mcr`.
pub fn mrc(name: Cp15, rt: u32) -> u32 {
    let (opc2, opc1) = (u32::from(name.opc2) << 17, u32::from(name.opc1) << 14);
    0x03 << 26 | ALWAYS | opc2 | opc1 | u32::from(name.crn) << 10 | rt << 5 | u32::from(name.crm) << 1 | 1
}

/// A hypercall.
pub fn hvc(context: &mut VcpuContext, arguments: [u32; 4]) -> ExitCode {
    context.r[..4].copy_from_slice(&arguments);
    context.pc += 4;
    trap(context, 0x12 << 26 | 1 << 25)
}

/// Puts an Arm instruction where the guest begins.
pub fn put_instruction(machine: &Machine, word: u32) {
    machine.host.set_bytes(HostVirt::new(HVA.get() + (START - RAM as u32)), &word.to_le_bytes());
}

/// An abort of the instruction where the guest begins, without a syndrome.
pub fn undescribed(context: &mut VcpuContext, hsr: u32, ipa: u64) -> ExitCode {
    context.exit.code = [arch::syndrome::hpfar(Ipa::new(u64::from(START))); 2];
    fault(context, hsr & !ISV, ipa)
}

pub struct Machine {
    pub host: fake::Host,
    pub hypervisor: Arc<Hypervisor<fake::Host>>,
    pub vm: Arc<Vm<fake::Host>>,
    pub states: Vec<VcpuState<fake::Host>>,
    entries: Arc<AtomicUsize>,
    steps: Arc<Mutex<VecDeque<Step>>>,
}

impl Drop for Machine {
    /// What tests hung up everywhere holds the host and the VM, which hold what was hung up.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.steps.lock().unwrap().len(), 0, "the guest did not come to the end of its script");
        }
        self.host.set_guest(|_| ExitCode::Gone);
        self.host.race_entry(|| {});
        self.host.observe(|_| {});
        self.host.on_poll(|| true);
        for number in 0..8 {
            self.vm.place(number).unwrap().waiter().on_sleep(|| {});
        }
    }
}

pub fn hardware() -> Hardware {
    let id = IdRegisters { midr: 0x412f_c0f1, mpidr: 0x8000_0000, actlr: 0x41, ..Default::default() };
    let gic = Some(PhysicalGic { list_registers: 4, gicv: HostPhys::new(GICV) });
    Hardware { gic, timer_interrupt: Some(27), firmware_hardens: false, id }
}

impl Machine {
    /// Without an interrupt controller.
    pub fn bare(vcpus: usize) -> Self {
        Self::on(hardware(), vcpus)
    }

    /// With one.
    pub fn new(vcpus: usize) -> Self {
        let machine = Self::bare(vcpus);
        machine.add_irqchip();
        machine
    }

    pub fn on(hardware: Hardware, vcpus: usize) -> Self {
        let host = fake::Host::new();
        let hypervisor = Arc::new(Hypervisor::new(host.clone(), hardware));
        let vm = Arc::new(Vm::new(&hypervisor, HostVirt::new(0xbf00_0000)).unwrap());
        let states = (0..vcpus).map(|number| {
            assert!(vm.create_vcpu(number));
            let mut state = VcpuState::new(&host, vm.place(number).unwrap().waiter()).unwrap();
            let place = Place { vcpu: number as u32, vcpus: vcpus as u32 };
            reset::reset(&mut state.registers(), &hypervisor.hardware.id, place);
            (state.initialised, state.psci_0_2) = (true, true);
            (state.context.pc, state.context.cp15.vbar) = (START, VECTORS);
            state
        });
        let states = states.collect();
        Self { host, hypervisor, vm, states, entries: Arc::default(), steps: Arc::default() }
    }

    pub fn add_irqchip(&self) {
        self.vm.create_irqchip().unwrap();
        self.vm.set_irqchip_address(vm::Region::Distributor, DIST).unwrap();
        self.vm.set_irqchip_address(vm::Region::CpuInterface, CPU).unwrap();
        self.vm.initialise_irqchip(&self.hypervisor).unwrap();
    }

    /// Memory at [`RAM`], all of which the process has.
    pub fn give_ram(&self, pages: u32) {
        self.give_ram_with(pages, 0);
    }

    pub fn give_ram_with(&self, pages: u32, flags: u32) {
        let region = Region {
            slot: 0,
            flags,
            guest_phys_addr: RAM,
            memory_size: u64::from(pages) * 4096,
            userspace_addr: HVA.get().into(),
        };
        self.vm.memory.set_region(&region).unwrap();
        for page in 0..pages {
            let phys = HostPhys::new(PHYS + u64::from(page) * 4096);
            let resolved = crate::host::Resolved { phys, writable: true, block: false, device: false };
            self.host.set_page(HostVirt::new(HVA.get() + page * 4096), Ok(resolved));
        }
    }

    /// What the guest does, stay by stay. After that a signal ends it.
    pub fn script(&mut self, steps: impl IntoIterator<Item = Step>) {
        let steps: VecDeque<Step> = steps.into_iter().collect();
        let before = core::mem::replace(&mut *self.steps.lock().unwrap(), steps);
        assert!(before.is_empty(), "the guest did not come to the end of its script");
        let (host, entries, steps) = (self.host.clone(), self.entries.clone(), self.steps.clone());
        self.host.set_signal(false);
        self.host.set_guest(move |context| {
            entries.fetch_add(1, Ordering::SeqCst);
            let step = steps.lock().unwrap().pop_front();
            match step {
                Some(step) => step(context),
                None => {
                    host.set_signal(true);
                    ExitCode::Interrupt
                }
            }
        });
    }

    /// How often the guest was entered.
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::SeqCst)
    }

    pub fn run(&mut self, number: usize) -> Return {
        self.run_with(number, [0; 8], false)
    }

    pub fn run_with(&mut self, number: usize, answer: [u8; 8], immediate: bool) -> Return {
        let state = &mut self.states[number];
        match run(&self.hypervisor, &self.vm, number, state, answer, immediate) {
            Return::Asks => Return::Exit(Exit::Mmio(state.asks().expect("something to ask"))),
            other => other,
        }
    }

    pub fn dist_write(&self, offset: u32, value: u32) {
        let kicks = self.vm.with_vgic(|vgic| vgic.dist_write(0, offset, 4, value));
        self.vm.kick(kicks.unwrap());
    }

    /// The distributor forwards, and SGI 0, the timers' PPIs of vCPU 0 and SPI 40 (to vCPU 0) are enabled.
    pub fn enable_interrupts(&self) {
        self.dist_write(gicd::CTLR, 1);
        self.dist_write(gicd::ISENABLER, 1 | 1 << 27 | 1 << 30);
        self.dist_write(gicd::ISENABLER + 4, 1 << 8);
        self.dist_write(gicd::ITARGETSR + 40, 1);
    }

    /// Each guest's CPU interface lets interrupts through, from the next entry on.
    pub fn open_interface(&mut self) {
        for (_, vcpu) in self.vm.vcpus() {
            vcpu.park(Parked { vmcr: OPEN, apr: 0 });
        }
    }
}
