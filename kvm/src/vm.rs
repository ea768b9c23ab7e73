// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine: memory, interrupt controller, vCPUs.
//!
//! A VM has room for eight vCPUs, as many as a GICv2 serves; each place exists from the beginning and is filled when the process
//! creates that vCPU. The interrupt controller comes in two steps, as KVM has it: the process asks for one and says where it
//! lies, and later, at the latest when a vCPU first runs, it is made for the vCPUs that there are then.

mod gsi;

use crate::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::cp15::IdRegisters;
use crate::guest_memory::GuestMemory;
use crate::host::{Host, Lock, OutOfMemory};
use crate::io_bus::IoBus;
use crate::irq_routing::Routing;
use crate::irqchip_state::Standstill;
use crate::irqfd::Irqfds;
use crate::psci::{BranchHardening, Firmware, StoreBypass, Version};
use crate::statistics::Cleared;
use crate::timer_interrupts::TimerPpis;
use crate::trace::{Event, Kind, note};
use crate::vcpu::Vcpu;
use crate::vgic::{Interrupt, Invalid, Kicks, Vgic};
use crate::vmid::{LastRan, Vmids};
use arch::addr::{HostPhys, HostVirt, Ipa};
use arch::core_id::{BranchPredictor, Core, Midr};
use arch::gic::MAX_CPUS;

/// The virtual interface of the hardware's GICv2.
#[derive(Clone, Copy, Debug)]
pub struct PhysicalGic {
    /// Its list registers.
    pub list_registers: usize,
    /// Where the guest's CPU interface really lies.
    pub gicv: HostPhys,
}

/// What the hardware offers to VMs.
#[derive(Clone, Copy, Debug)]
pub struct Hardware {
    /// The GIC, if it has a virtual interface. Without, no VM has an interrupt controller of ours.
    pub gic: Option<PhysicalGic>,
    /// The virtual timer's physical interrupt, if the guest may deactivate it itself.
    pub timer_interrupt: Option<u32>,
    /// Firmware empties branch predictors where the core itself cannot.
    pub firmware_hardens: bool,
    /// What cores say of themselves.
    pub id: IdRegisters,
}

/// What all VMs share.
pub struct Hypervisor<H: Host> {
    /// The kernel around it.
    pub host: H,
    /// What the hardware offers.
    pub hardware: Hardware,
    /// Who has which VMID.
    pub vmids: Vmids<H>,
}

impl<H: Host> Hypervisor<H> {
    /// One without VMs.
    pub fn new(host: H, hardware: Hardware) -> Self {
        let vmids = Vmids::new(host.clone());
        Self { host, hardware, vmids }
    }
}

/// Bytes of guest address space that the distributor takes.
pub const DIST_SIZE: u64 = 0x1000;
/// Bytes of guest address space that the CPU interface takes.
pub const CPU_SIZE: u64 = 0x2000;
/// Interrupts of a GIC whose process names no number.
const DEFAULT_IRQS: usize = 256;

type VmVgic<H> = Vgic<<H as Host>::Array<Interrupt>>;

/// The VM's interrupt controller, from nothing to running.
struct Irqchip<H: Host> {
    /// The process asked for one.
    wanted: bool,
    /// A vCPU ran without one.
    refused: bool,
    /// How many interrupts it said, if it did.
    nr_irqs: Option<usize>,
    dist: Option<Ipa>,
    cpu: Option<Ipa>,
    /// One element from initialisation on. On the heap, since it is large.
    vgic: Option<H::Array<Option<VmVgic<H>>>>,
    /// Where GSIs lead. `None`: as KVM has it.
    routing: Option<Routing<H>>,
}

impl<H: Host> Irqchip<H> {
    /// The GIC, if it is made.
    fn vgic(&mut self) -> Option<&mut VmVgic<H>> {
        self.vgic.as_mut()?.first_mut()?.as_mut()
    }
}

/// Why the interrupt controller is not as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqchipError {
    /// There is one already (EEXIST).
    Exists,
    /// There is none, or no vCPU that it could be for (ENODEV).
    Missing,
    /// It is running, or vCPUs are: too late (EBUSY).
    Busy,
    /// The address is not aligned (EINVAL).
    Unaligned,
    /// The address is beyond what a guest can have (E2BIG).
    OutOfRange,
    /// The two regions overlap, or a number makes no sense (EINVAL).
    Invalid,
    /// Something was not said yet that is needed now (ENXIO).
    Incomplete,
    /// No memory (ENOMEM).
    OutOfMemory,
}

impl From<OutOfMemory> for IrqchipError {
    fn from(_: OutOfMemory) -> Self {
        Self::OutOfMemory
    }
}

/// Which region of the interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// GICD, emulated.
    Distributor,
    /// GICC, which is the hardware's GICV.
    CpuInterface,
}

/// What a guest's access without a memory slot hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The distributor, at this offset.
    Distributor(u32),
    /// The CPU interface: the page of GICV to map there.
    CpuInterface(HostPhys),
    /// Nothing of ours.
    Nothing,
}

/// Whether a VM runs with an interrupt controller, and where it lies: asked at every exit, so without a lock.
#[derive(Default)]
struct Settled {
    /// 0 not known yet, 1 without, 2 with. Written after the addresses.
    what: AtomicU32,
    dist: AtomicU64,
    cpu: AtomicU64,
}

impl Settled {
    fn is_known(&self) -> bool {
        self.what.load(Ordering::Acquire) != 0
    }

    fn with_irqchip(&self) -> bool {
        self.what.load(Ordering::Acquire) == 2
    }

    fn without_irqchip(&self) {
        self.what.store(1, Ordering::Release);
    }

    fn irqchip_at(&self, dist: Ipa, cpu: Ipa) {
        self.dist.store(dist.get(), Ordering::Relaxed);
        self.cpu.store(cpu.get(), Ordering::Relaxed);
        self.what.store(2, Ordering::Release);
    }

    /// Where distributor and CPU interface lie.
    fn irqchip(&self) -> Option<(Ipa, Ipa)> {
        let place = |at: &AtomicU64| Ipa::new(at.load(Ordering::Relaxed));
        self.with_irqchip().then(|| (place(&self.dist), place(&self.cpu)))
    }
}

/// A VM.
pub struct Vm<H: Host> {
    /// Its memory.
    pub memory: GuestMemory<H>,
    /// What its writes may end at.
    pub bus: IoBus<H>,
    /// Events that are interrupts of its.
    pub(crate) irqfds: Irqfds<H>,
    /// Where each vCPU last ran.
    pub last_ran: LastRan<H>,
    /// Which PPIs the timers drive.
    pub timer_ppis: TimerPpis,
    /// Whether somebody works with the interrupt controller of vCPUs that stand still.
    pub standstill: Standstill,
    /// Accesses that can neither be described nor carried out are the process's (KVM_CAP_ARM_NISV_TO_USER).
    pub undescribed_to_process: AtomicBool,
    vcpus: H::Array<Option<Vcpu<H>>>,
    /// Bit n: vCPU n was created.
    created: AtomicU32,
    irqchip: H::Spin<Irqchip<H>>,
    /// What [`Self::prepare_to_run`] found, which does not change any more.
    settled: Settled,
    /// Bit n: an interrupt is queued or loaded for vCPU n. Written under `irqchip`, before the vCPU is kicked.
    concerned: AtomicU32,
    firmware: H::Spin<Firmware>,
    /// Counts changes of it, each when it is done.
    firmware_changed: AtomicU32,
    /// CNTVOFF of all its vCPUs: they share one virtual count.
    counter_offset: AtomicU64,
    pub(crate) cleared: H::Spin<Cleared>,
}

impl<H: Host> Vm<H> {
    /// How many vCPUs a VM can have.
    pub const MAX_VCPUS: usize = MAX_CPUS;

    /// A VM over the calling process's memory, whose addresses end at `user_end`. May sleep.
    ///
    /// Its virtual count starts at 0.
    pub fn new(hypervisor: &Hypervisor<H>, user_end: HostVirt) -> Result<Self, OutOfMemory> {
        let host = &hypervisor.host;
        let vcpus = host.array(MAX_CPUS, |_| Vcpu::new(host).ok())?;
        if vcpus.iter().any(Option::is_none) {
            return Err(OutOfMemory);
        }
        let irqchip =
            Irqchip { wanted: false, refused: false, nr_irqs: None, dist: None, cpu: None, vgic: None, routing: None };
        Ok(Self {
            memory: GuestMemory::new(host.clone(), user_end)?,
            bus: IoBus::new(host)?,
            irqfds: Irqfds::default(),
            last_ran: LastRan::new(host)?,
            timer_ppis: TimerPpis::default(),
            standstill: Standstill::default(),
            undescribed_to_process: AtomicBool::new(false),
            vcpus,
            created: AtomicU32::new(0),
            irqchip: Lock::new(irqchip),
            settled: Settled::default(),
            concerned: AtomicU32::new(0),
            firmware: Lock::new(Firmware {
                version: Version::V1_0,
                branch_hardening: branch_hardening(hypervisor),
                store_bypass: store_bypass(hypervisor),
            }),
            firmware_changed: AtomicU32::new(0),
            counter_offset: AtomicU64::new(host.counter()),
            cleared: Lock::new(Cleared::default()),
        })
    }

    /// A vCPU that was created. `None`: it was not, or there is no such number.
    pub fn vcpu(&self, number: usize) -> Option<&Vcpu<H>> {
        if number >= MAX_CPUS || self.created.load(Ordering::Acquire) >> number & 1 == 0 {
            return None;
        }
        self.vcpus.get(number)?.as_ref()
    }

    /// The vCPUs that were created, with their numbers.
    pub fn vcpus(&self) -> impl Iterator<Item = (usize, &Vcpu<H>)> {
        (0..MAX_CPUS).filter_map(|number| Some((number, self.vcpu(number)?)))
    }

    /// Whether another vCPU may be created: not once the interrupt controller runs, which was made for those there are.
    pub fn takes_vcpus(&self) -> bool {
        self.irqchip.lock().vgic.is_none()
    }

    /// Where a new vCPU's thread will sleep. `None`: no such number.
    pub fn place(&self, number: usize) -> Option<&Vcpu<H>> {
        self.vcpus.get(number)?.as_ref()
    }

    /// Creates a vCPU. False: it exists, or there is no such number, or it is too late ([`Self::takes_vcpus`]).
    pub fn create_vcpu(&self, number: usize) -> bool {
        // Held so that nobody makes the interrupt controller for fewer meanwhile.
        let irqchip = self.irqchip.lock();
        number < MAX_CPUS
            && irqchip.vgic.is_none()
            && self.created.fetch_or(1 << number, Ordering::AcqRel) >> number & 1 == 0
    }

    /// Undoes [`Self::create_vcpu`] for one that nobody got to see.
    pub fn forget_vcpu(&self, number: usize) {
        if number < MAX_CPUS {
            self.created.fetch_and(!(1 << number), Ordering::AcqRel);
        }
    }

    /// All vCPUs but one.
    pub fn all_but(&self, number: usize) -> Kicks {
        self.vcpus().fold(Kicks::NONE, |all, (other, _)| all | Kicks::one(other)).without(number)
    }

    /// Kicks those vCPUs that are in their guests. Those that sleep are to be woken by [`Self::kick`] yet. Never wakes a thread.
    pub fn kick_out(&self, kicks: Kicks) -> Kicks {
        kicks.iter().fold(Kicks::NONE, |asleep, number| match self.vcpu(number) {
            Some(vcpu) if !vcpu.kick_out() => asleep | Kicks::one(number),
            _ => asleep,
        })
    }

    /// Kicks vCPUs.
    pub fn kick(&self, kicks: Kicks) {
        for vcpu in kicks.iter().filter_map(|number| self.vcpu(number)) {
            vcpu.kick();
        }
    }

    /// The process asks for an interrupt controller. Not once vCPUs run.
    pub fn create_irqchip(&self) -> Result<(), IrqchipError> {
        let mut irqchip = self.irqchip.lock();
        if irqchip.wanted {
            return Err(IrqchipError::Exists);
        }
        if irqchip.refused {
            return Err(IrqchipError::Busy);
        }
        irqchip.wanted = true;
        Ok(())
    }

    /// Undoes [`Self::create_irqchip`] for one that the process got no handle of, unless it is in use all the same.
    pub fn forget_irqchip(&self) {
        let mut irqchip = self.irqchip.lock();
        if irqchip.vgic.is_none() {
            (irqchip.wanted, irqchip.nr_irqs, irqchip.dist, irqchip.cpu) = (false, None, None, None);
        }
    }

    /// Whether the VM has an interrupt controller.
    pub fn has_irqchip(&self) -> bool {
        self.irqchip.lock().wanted
    }

    /// Whether it has one that vCPUs run with.
    pub fn has_running_irqchip(&self) -> bool {
        self.settled.with_irqchip()
    }

    /// Where a region of the interrupt controller lies. `Ok(None)`: not said yet.
    pub fn irqchip_address(&self, region: Region) -> Result<Option<Ipa>, IrqchipError> {
        let irqchip = self.irqchip.lock();
        if !irqchip.wanted {
            return Err(IrqchipError::Missing);
        }
        Ok(match region {
            Region::Distributor => irqchip.dist,
            Region::CpuInterface => irqchip.cpu,
        })
    }

    /// Says where a region of the interrupt controller lies. Once. Whether the two overlap is looked at when a vCPU is to run.
    pub fn set_irqchip_address(&self, region: Region, address: u64) -> Result<(), IrqchipError> {
        let size = match region {
            Region::Distributor => DIST_SIZE,
            Region::CpuInterface => CPU_SIZE,
        };
        let mut irqchip = self.irqchip.lock();
        if !irqchip.wanted {
            return Err(IrqchipError::Missing);
        }
        let fits = |_: &Ipa| address.checked_add(size).and_then(|end| Ipa::checked(end - 1)).is_some();
        let at = Ipa::checked(address).filter(fits).ok_or(IrqchipError::OutOfRange)?;
        if !address.is_multiple_of(DIST_SIZE) {
            return Err(IrqchipError::Unaligned);
        }
        let own = match region {
            Region::Distributor => &mut irqchip.dist,
            Region::CpuInterface => &mut irqchip.cpu,
        };
        if own.is_some() {
            return Err(IrqchipError::Exists);
        }
        *own = Some(at);
        Ok(())
    }

    /// How many interrupts there are to be; what was said, or is the case.
    pub fn nr_irqs(&self) -> Option<usize> {
        self.irqchip.lock().nr_irqs
    }

    /// Says how many interrupts there are to be, the private ones included: 64 to 1024, a multiple of 32. Once.
    pub fn set_nr_irqs(&self, count: u32) -> Result<(), IrqchipError> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if !(64..=1024).contains(&count) || !count.is_multiple_of(32) {
            return Err(IrqchipError::Invalid);
        }
        let mut irqchip = self.irqchip.lock();
        if irqchip.nr_irqs.is_some() || irqchip.vgic.is_some() {
            return Err(IrqchipError::Busy);
        }
        irqchip.nr_irqs = Some(count);
        Ok(())
    }

    /// Makes the interrupt controller, for the vCPUs that there are, if that was not done. May sleep.
    pub fn initialise_irqchip(&self, hypervisor: &Hypervisor<H>) -> Result<(), IrqchipError> {
        loop {
            let (vcpus, nr_irqs) = {
                let irqchip = self.irqchip.lock();
                if !irqchip.wanted {
                    return Err(IrqchipError::Missing);
                }
                if irqchip.vgic.is_some() {
                    return Ok(());
                }
                (self.gic_cpus(), irqchip.nr_irqs.unwrap_or(DEFAULT_IRQS))
            };
            let vgic = Self::make_vgic(hypervisor, vcpus, nr_irqs)?;
            let mut irqchip = self.irqchip.lock();
            // While it was made, somebody else may have been faster, or created a vCPU or set the number of interrupts.
            let still_fits = self.gic_cpus() == vcpus && irqchip.nr_irqs.unwrap_or(DEFAULT_IRQS) == nr_irqs;
            if irqchip.vgic.is_none() && still_fits {
                irqchip.nr_irqs = Some(nr_irqs);
                irqchip.vgic = Some(vgic);
                return Ok(());
            }
        }
    }

    /// How many CPUs the interrupt controller has: the highest vCPU number counts, not how many vCPUs there are, as the numbers
    /// are the GIC's CPU numbers.
    fn gic_cpus(&self) -> usize {
        (u32::BITS - self.created.load(Ordering::Acquire).leading_zeros()) as usize
    }

    /// An interrupt controller on the heap. May sleep.
    fn make_vgic(
        hypervisor: &Hypervisor<H>,
        vcpus: usize,
        nr_irqs: usize,
    ) -> Result<H::Array<Option<VmVgic<H>>>, IrqchipError> {
        let gic = hypervisor.hardware.gic.filter(|_| vcpus != 0).ok_or(IrqchipError::Missing)?;
        let storage = hypervisor.host.array(VmVgic::<H>::storage(vcpus, nr_irqs), |_| Interrupt::default())?;
        let made = Vgic::new(vcpus, nr_irqs, storage, gic.list_registers);
        let mut made = Some(made.map_err(|_| IrqchipError::Invalid)?);
        Ok(hypervisor.host.array(1, |_| made.take())?)
    }

    /// What has to be there before a vCPU runs: an interrupt controller that was asked for has its addresses and is made.
    pub fn prepare_to_run(&self, hypervisor: &Hypervisor<H>) -> Result<(), IrqchipError> {
        if self.settled.is_known() {
            return Ok(());
        }
        let (dist, cpu) = {
            let mut irqchip = self.irqchip.lock();
            if !irqchip.wanted {
                irqchip.refused = true;
                self.settled.without_irqchip();
                return Ok(());
            }
            let (Some(dist), Some(cpu)) = (irqchip.dist, irqchip.cpu) else {
                return Err(IrqchipError::Incomplete);
            };
            if dist.get() < cpu.get() + CPU_SIZE && cpu.get() < dist.get() + DIST_SIZE {
                return Err(IrqchipError::Invalid);
            }
            (dist, cpu)
        };
        self.initialise_irqchip(hypervisor)?;
        self.tie_timers(hypervisor)?;
        self.settled.irqchip_at(dist, cpu);
        Ok(())
    }

    /// Where the distributor is, if it is made and no slot lies over it.
    pub fn distributor(&self) -> Option<Ipa> {
        let (at, _) = self.settled.irqchip()?;
        self.memory.host_address(at).is_none().then_some(at)
    }

    /// Counts up with each change of what vCPUs remember of the VM: memory slots, firmware.
    pub fn generation(&self) -> u32 {
        self.memory.slots_generation().wrapping_add(self.firmware_changed.load(Ordering::Relaxed))
    }

    /// What of ours lies at `ipa`, where no memory does.
    pub fn hit(&self, hypervisor: &Hypervisor<H>, ipa: Ipa) -> Hit {
        let Some((dist, cpu)) = self.settled.irqchip() else { return Hit::Nothing };
        let offset_in = |base: Ipa, size: u64| {
            let offset = ipa.get().checked_sub(base.get())?;
            (offset < size).then_some(offset)
        };
        if let Some(offset) = offset_in(dist, DIST_SIZE) {
            return Hit::Distributor(offset as u32);
        }
        let page = offset_in(cpu, CPU_SIZE).and_then(|offset| hypervisor.hardware.gic?.gicv.checked_add(offset));
        page.map_or(Hit::Nothing, |page| Hit::CpuInterface(page.page()))
    }

    /// Works with the interrupt controller, if it is made.
    #[inline(always)]
    pub fn with_vgic<R>(&self, work: impl FnOnce(&mut VmVgic<H>) -> R) -> Option<R> {
        let mut irqchip = self.irqchip.lock();
        let vgic = irqchip.vgic()?;
        let result = work(vgic);
        self.concerned.store(vgic.concerned().bits().into(), Ordering::Relaxed);
        Some(result)
    }

    /// Does something under the interrupt controller's lock; whether the process asked for one is passed on.
    pub(crate) fn with_irqchip_lock<R>(&self, work: impl FnOnce(bool) -> R) -> R {
        let irqchip = self.irqchip.lock();
        work(irqchip.wanted)
    }

    /// Looks at the interrupt controller, if it is made.
    pub fn look_at_vgic<R>(&self, look: impl FnOnce(&VmVgic<H>) -> R) -> Option<R> {
        let irqchip = self.irqchip.lock();
        Some(look(irqchip.vgic.as_ref()?.first()?.as_ref()?))
    }

    /// Whether an interrupt is queued or loaded for a vCPU: if not, there is nothing to ask the interrupt controller about.
    ///
    /// The answer is good for a vCPU that has marked itself as in the guest or asleep: what comes later kicks it.
    pub fn is_concerned(&self, vcpu: usize) -> bool {
        self.concerned.load(Ordering::Relaxed) >> vcpu & 1 != 0
    }

    /// What the guest's firmware is like.
    pub fn firmware(&self) -> Firmware {
        *self.firmware.lock()
    }

    /// Chooses the version of PSCI.
    pub fn set_psci_version(&self, version: Version) {
        self.firmware.lock().version = version;
        self.firmware_changed.fetch_add(1, Ordering::Release);
    }

    /// CNTVOFF.
    pub fn counter_offset(&self) -> u64 {
        self.counter_offset.load(Ordering::Relaxed)
    }

    /// Sets CNTVOFF for all vCPUs, each of which takes it over when it enters next.
    pub fn set_counter_offset(&self, offset: u64) {
        self.counter_offset.store(offset, Ordering::Relaxed);
    }

    /// Drives an interrupt line. `vcpu` says whose, if it is private. The lines of the timers are their own, and nothing happens.
    pub fn set_line(&self, vcpu: usize, intid: u32, level: bool) -> Result<(), Invalid> {
        if self.timer_ppis.get().contains(&intid) {
            return Ok(());
        }
        note(self.memory.host(), Kind::UpdatePending, || {
            let (vcpu, irq) = (vcpu as u64, intid.into());
            Event::UpdatePending { vcpu, irq, level: level.into() }
        });
        let kicks = self.with_vgic(|vgic| vgic.set_level(vcpu, intid, level)).unwrap_or(Err(Invalid::Interrupt))?;
        self.kick(kicks);
        Ok(())
    }
}

/// What the guest is told about branch predictors: where Hyp mode's vectors empty them, a call to the hypervisor is what does it.
fn branch_hardening<H: Host>(hypervisor: &Hypervisor<H>) -> BranchHardening {
    match Midr::new(hypervisor.hardware.id.midr).branch_predictor() {
        BranchPredictor::NotVulnerable => BranchHardening::NotRequired,
        BranchPredictor::Bpiall | BranchPredictor::Iciallu => BranchHardening::Available,
        BranchPredictor::Firmware if hypervisor.hardware.firmware_hardens => BranchHardening::Available,
        _ => BranchHardening::Unavailable,
    }
}

/// What the guest is told about speculative store bypass: the 32-bit cores do not do it; of the others only some, and nothing can be
/// done about it from here.
fn store_bypass<H: Host>(hypervisor: &Hypervisor<H>) -> StoreBypass {
    match Midr::new(hypervisor.hardware.id.midr).core() {
        Core::CortexA57 | Core::CortexA72 | Core::CortexA73 | Core::CortexA75 | Core::Other => StoreBypass::Unknown,
        _ => StoreBypass::NotRequired,
    }
}

#[cfg(test)]
#[path = "vm_tests.rs"]
mod tests;
