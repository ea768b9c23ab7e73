// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's descriptor: its ioctls, and the page that it shares with the process.
//!
//! Calls on one vCPU take turns: whoever comes while it runs waits, unless killed. The shared page (`struct kvm_run`) is written by
//! the process at any time, so it is read word by word, once, and nothing in it is believed.

use crate::errno::{Errno, Result};
use crate::ffi;
use crate::heap::Shared;
use crate::kernel::Kernel;
use crate::lock::Mutex;
use crate::pages::LowmemPage;
use crate::system::{self, to_kernel};
use crate::trace;
use crate::user::UserAddress;
use crate::vcpu_state;
use crate::vm::{VmObject, owning};
use core::ffi::c_void;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};
use kvm::cp15::Registers;
use kvm::host::{Host, Lock, Unresolved};
use kvm::one_reg::{self, Effect, Surroundings};
use kvm::reset::{self, Place};
use kvm::run::Return;
use kvm::vcpu::{Power, VcpuState};
use kvm::vm::Hypervisor;
use uapi::ioctl::*;
use uapi::registers::{OneReg, RegList};
use uapi::run::{Exit, KVM_EXIT_INTR, KVM_EXIT_UNKNOWN, MMIO_DATA_OFFSET, Run};
use uapi::vcpu::*;

/// How often the world switch exchanged VFP's registers for vCPUs whose descriptors are closed.
static VFP_SWITCHES: AtomicU32 = AtomicU32::new(0);

/// Bytes of a signal set: 64 signals.
const SIGSET_BYTES: u32 = 8;

/// What the process asked for, and works on, call by call.
struct Inner {
    state: VcpuState<Kernel>,
    /// The target and features of the first KVM_ARM_VCPU_INIT: later ones must ask for the same.
    init: Option<VcpuInit>,
    /// The signal mask while it runs.
    sigmask: Option<[u32; 2]>,
}

/// A vCPU with what ties it to Linux.
pub struct VcpuObject {
    vm: Shared<VmObject>,
    number: usize,
    run: LowmemPage,
    inner: Mutex<Inner>,
}

/// KVM_CREATE_VCPU: a descriptor.
pub fn create(vm: &Shared<VmObject>, number: usize) -> Result<i32> {
    let place = vm.vm.place(number).ok_or(Errno::EINVAL)?;
    if !vm.vm.takes_vcpus() {
        return Err(Errno::EBUSY);
    }
    let inner = Inner { state: VcpuState::new(&Kernel, place.waiter())?, init: None, sigmask: None };
    let object =
        Shared::new(VcpuObject { vm: vm.clone(), number, run: LowmemPage::for_process()?, inner: Mutex::new(inner) })?;
    if !vm.vm.create_vcpu(number) {
        return Err(Errno::EEXIST);
    }
    // SAFETY: the descriptor's release gives the reference back, once.
    owning(object, |raw| unsafe { ffi::ws_vcpu_fd(number as u32, raw) }).inspect_err(|_| vm.vm.forget_vcpu(number))
}

impl VcpuObject {
    /// Reads a field of the shared page.
    fn shared<T: Copy>(&self, offset: usize) -> T {
        assert_in_page::<T>(offset);
        // SAFETY: within the page (just checked), aligned as `struct kvm_run` lays it out; volatile, since the process may write.
        unsafe { self.run.as_ptr().add(offset).cast::<T>().read_volatile() }
    }

    /// Writes a field of the shared page.
    fn set_shared<T: Copy>(&self, offset: usize, value: T) {
        assert_in_page::<T>(offset);
        // SAFETY: as in `shared`.
        unsafe { self.run.as_ptr().add(offset).cast::<T>().write_volatile(value) };
    }

    #[inline(always)]
    fn report(&self, exit: &Exit) {
        let (payload, words) = exit.encode();
        for (index, word) in payload.iter().enumerate().take(words) {
            self.set_shared(offset_of!(Run, exit) + index * 8, *word);
        }
        self.set_shared(offset_of!(Run, exit_reason), exit.reason());
    }

    fn surroundings<'a>(
        &'a self,
        hypervisor: &'a Hypervisor<Kernel>,
        firmware: &'a kvm::psci::Firmware,
        inner: &Inner,
    ) -> Surroundings<'a> {
        Surroundings { id: &hypervisor.hardware.id, firmware, psci_0_2: inner.state.psci_0_2, now: Kernel.counter() }
    }

    /// The registers, with the VM's offset of the virtual count, which the vCPU takes over when it runs.
    fn registers<'a>(&self, inner: &'a mut Inner) -> Registers<'a> {
        inner.state.context.timer.cntvoff = self.vm.vm.counter_offset();
        inner.state.registers()
    }

    /// KVM_RUN.
    fn run(&self, inner: &mut Inner) -> Result<i32> {
        if !inner.state.initialised {
            return Err(Errno::ENOEXEC);
        }
        let hypervisor = system::hypervisor()?;
        if let Some(mask) = &inner.sigmask {
            // SAFETY: eight bytes, copied by the shim; put back below, on this thread.
            unsafe { ffi::ws_sigmask_set((&raw const *mask).cast()) };
        }
        let answer: [u8; 8] = self.shared::<u64>(MMIO_DATA_OFFSET).to_le_bytes();
        let immediate = self.shared::<u8>(offset_of!(Run, immediate_exit)) != 0;
        if !immediate {
            // What is left of the exit before means nothing where this call fails.
            self.set_shared(offset_of!(Run, exit_reason), KVM_EXIT_UNKNOWN);
        }
        let result = kvm::run::run(hypervisor, &self.vm.vm, self.number, &mut inner.state, answer, immediate);
        if !self.vm.vm.has_running_irqchip() {
            self.set_shared(offset_of!(Run, device_irq_level), vcpu_state::device_irq_level(&inner.state));
        }
        if inner.sigmask.is_some() {
            // SAFETY: set above, on this thread. A call that begins again goes the way on which the kernel restores what was put off.
            unsafe {
                if matches!(result, Return::Again) {
                    ffi::ws_sigmask_restore_later()
                } else {
                    ffi::ws_sigmask_restore()
                }
            };
        }
        match result {
            Return::Exit(exit) => {
                self.report(&exit);
                Ok(0)
            }
            Return::Asks => {
                if let Some(mmio) = inner.state.asks() {
                    self.report(&Exit::Mmio(mmio));
                }
                Ok(0)
            }
            Return::Interrupted => {
                if !immediate {
                    self.set_shared(offset_of!(Run, exit_reason), KVM_EXIT_INTR);
                }
                Err(Errno::EINTR)
            }
            Return::Again => {
                // Seen by the process if a signal's handler runs: the call is EINTR then.
                self.set_shared(offset_of!(Run, exit_reason), KVM_EXIT_INTR);
                ffi::ws_return_to_work();
                Err(Errno::ERESTARTNOHAND)
            }
            Return::Unresolved(Unresolved::OutOfMemory) => Err(Errno::ENOMEM),
            Return::Unresolved(Unresolved::Interrupted) => Err(Errno::EINTR),
            Return::Unresolved(Unresolved::Poisoned) => Err(Errno::EHWPOISON),
            Return::Unresolved(Unresolved::Fault) => Err(Errno::EFAULT),
            Return::Irqchip(error) => Err(error.into()),
            Return::NoSyndrome => Err(Errno::ENOSYS),
        }
    }

    /// KVM_ARM_VCPU_INIT: resets the vCPU, as a target that the host can be.
    fn initialise(&self, inner: &mut Inner, argument: UserAddress) -> Result<i32> {
        let request: VcpuInit = argument.read()?;
        let hypervisor = system::hypervisor()?;
        let id = &hypervisor.hardware.id;
        if request.target != reset::target(id.midr) {
            return Err(Errno::EINVAL);
        }
        let known = (1u32 << KVM_VCPU_MAX_FEATURES) - 1;
        if request.features.iter().enumerate().any(|(index, word)| word & !(if index == 0 { known } else { 0 }) != 0) {
            return Err(Errno::ENOENT);
        }
        // Whoever wants to change the state of power has KVM_SET_MP_STATE.
        if inner.init.is_some_and(|before| before != request) {
            return Err(Errno::EINVAL);
        }
        inner.init = Some(request);
        let place = Place { vcpu: self.number as u32, vcpus: self.vm.vm.vcpus().count() as u32 };
        let state = &mut inner.state;
        let was_initialised = core::mem::replace(&mut state.initialised, true);
        if was_initialised {
            // What the guest did with its caches off must not be hidden by what they hold (KVM's stage2_unmap_vm).
            self.vm.vm.memory.flush_all_mapped();
        }
        reset::reset(&mut state.registers(), id, place);
        state.psci_0_2 = request.has(KVM_ARM_VCPU_PSCI_0_2);
        state.answers_as_of = None;
        state.pending = None;
        state.lost = false;
        let vcpu = self.vm.vm.vcpu(self.number).ok_or(Errno::EINVAL)?;
        vcpu.change_power(|power| *power = Power { off: request.has(KVM_ARM_VCPU_POWER_OFF), start: None });
        vcpu.clear_lines();
        Ok(0)
    }

    fn get_one_reg(&self, inner: &mut Inner, argument: UserAddress) -> Result<i32> {
        let request: OneReg = argument.read()?;
        let hypervisor = system::hypervisor()?;
        let register = one_reg::find(request.id, &hypervisor.hardware.id)?;
        let firmware = self.vm.vm.firmware();
        let surroundings = self.surroundings(hypervisor, &firmware, inner);
        let value = one_reg::get(&mut self.registers(inner), &surroundings, register)?;
        let to = UserAddress::from_field(request.addr);
        match register.size() {
            4 => to.write(&(value as u32))?,
            _ => to.write(&value)?,
        }
        Ok(0)
    }

    fn set_one_reg(&self, inner: &mut Inner, argument: UserAddress) -> Result<i32> {
        let request: OneReg = argument.read()?;
        let hypervisor = system::hypervisor()?;
        let register = one_reg::find(request.id, &hypervisor.hardware.id)?;
        let from = UserAddress::from_field(request.addr);
        let value = match register.size() {
            4 => from.read::<u32>()?.into(),
            _ => from.read::<u64>()?,
        };
        let firmware = self.vm.vm.firmware();
        let surroundings = self.surroundings(hypervisor, &firmware, inner);
        match one_reg::set(&mut self.registers(inner), &surroundings, register, value)? {
            Effect::CounterOffset(offset) => self.vm.vm.set_counter_offset(offset),
            Effect::PsciVersion(version) => self.vm.vm.set_psci_version(version),
            // The next way into the guest looks at the timer.
            Effect::None | Effect::VirtualTimer => {}
        }
        Ok(0)
    }

    fn get_reg_list(&self, argument: UserAddress) -> Result<i32> {
        let room = argument.read::<u64>()?;
        let id = &system::hypervisor()?.hardware.id;
        let count = one_reg::list(id).count() as u64;
        argument.write(&count)?;
        if room < count {
            return Err(Errno::E2BIG);
        }
        for (index, register) in one_reg::list(id).enumerate() {
            argument.offset(size_of::<RegList>() + index * 8)?.write(&register)?;
        }
        Ok(0)
    }

    fn get_mp_state(&self, argument: UserAddress) -> Result<i32> {
        let off = self.vm.vm.vcpu(self.number).ok_or(Errno::EINVAL)?.power().off;
        argument.write(&MpState { mp_state: if off { KVM_MP_STATE_STOPPED } else { KVM_MP_STATE_RUNNABLE } })?;
        Ok(0)
    }

    fn set_mp_state(&self, argument: UserAddress) -> Result<i32> {
        let request: MpState = argument.read()?;
        let off = match request.mp_state {
            KVM_MP_STATE_RUNNABLE => false,
            KVM_MP_STATE_STOPPED => true,
            _ => return Err(Errno::EINVAL),
        };
        self.vm.vm.vcpu(self.number).ok_or(Errno::EINVAL)?.change_power(|power| power.off = off);
        Ok(0)
    }

    fn set_signal_mask(&self, inner: &mut Inner, argument: usize) -> Result<i32> {
        if argument == 0 {
            inner.sigmask = None;
            return Ok(0);
        }
        let at = UserAddress::new(argument);
        let head: SignalMask = at.read()?;
        if head.len != SIGSET_BYTES {
            return Err(Errno::EINVAL);
        }
        inner.sigmask = Some(at.offset(size_of::<SignalMask>())?.read()?);
        Ok(0)
    }

    fn ioctl(&self, command: u32, argument: usize) -> Result<i32> {
        self.vm.check_caller()?;
        let at = UserAddress::new(argument);
        let mut inner = self.inner.lock_killable()?;
        // By far the most frequent.
        if command == KVM_RUN {
            if argument != 0 {
                return Err(Errno::EINVAL);
            }
            let result = self.run(&mut inner);
            trace::userspace_exit(self.shared(offset_of!(Run, exit_reason)), &result);
            return result;
        }
        let initialised = inner.state.initialised;
        match command {
            KVM_ARM_VCPU_INIT => self.initialise(&mut inner, at),
            KVM_GET_ONE_REG | KVM_SET_ONE_REG | KVM_GET_REG_LIST if !initialised => Err(Errno::ENOEXEC),
            KVM_GET_ONE_REG | KVM_SET_ONE_REG => {
                kvm::run::start_as_asked(system::hypervisor()?, &self.vm.vm, self.number, &mut inner.state);
                if command == KVM_GET_ONE_REG {
                    self.get_one_reg(&mut inner, at)
                } else {
                    self.set_one_reg(&mut inner, at)
                }
            }
            KVM_ARM_VCPU_FINALIZE if !initialised => Err(Errno::ENOEXEC),
            // No feature of a 32-bit vCPU is to be finalised.
            KVM_ARM_VCPU_FINALIZE => at.read::<u32>().and(Err(Errno::EINVAL)),
            KVM_GET_REG_LIST => self.get_reg_list(at),
            KVM_GET_MP_STATE => self.get_mp_state(at),
            KVM_SET_MP_STATE => self.set_mp_state(at),
            KVM_SET_SIGNAL_MASK => self.set_signal_mask(&mut inner, argument),
            KVM_GET_VCPU_EVENTS | KVM_SET_VCPU_EVENTS if !initialised => Err(Errno::ENOEXEC),
            KVM_GET_VCPU_EVENTS => vcpu_state::get_events(&inner.state, at),
            KVM_SET_VCPU_EVENTS => vcpu_state::set_events(&mut inner.state, at),
            KVM_SET_DEVICE_ATTR => vcpu_state::set_attribute(&self.vm.vm, at),
            KVM_GET_DEVICE_ATTR => vcpu_state::get_attribute(&self.vm.vm, at),
            KVM_HAS_DEVICE_ATTR => vcpu_state::has_attribute(at),
            _ => Err(Errno::EINVAL),
        }
    }
}

impl VcpuObject {
    /// Its descriptor was closed.
    pub fn close(&self) {
        if let Some(place) = self.vm.vm.vcpu(self.number) {
            VFP_SWITCHES.fetch_add(place.statistics.vfp_switches.read() as u32, Ordering::Relaxed);
        }
    }
}

/// Fields of the shared page lie in it: known when compiled, for every use.
#[inline(always)]
fn assert_in_page<T>(offset: usize) {
    debug_assert!(offset + size_of::<T>() <= size_of::<Run>() && offset.is_multiple_of(align_of::<T>()));
}

impl From<one_reg::Error> for Errno {
    fn from(error: one_reg::Error) -> Self {
        match error {
            one_reg::Error::NotFound => Self::ENOENT,
            one_reg::Error::Invalid => Self::EINVAL,
        }
    }
}

/// An ioctl on a vCPU's descriptor.
///
/// # Safety
/// `object` is the descriptor's.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_vcpu_ioctl(object: *mut c_void, command: u32, argument: usize) -> isize {
    // SAFETY: the descriptor holds a reference, and the kernel keeps the descriptor during the call.
    let object = unsafe { Shared::<VcpuObject>::borrow_raw(object) };
    to_kernel(object.ioctl(command, argument))
}

/// The parameter `vfp_switches`.
#[unsafe(no_mangle)]
extern "C" fn ws_rust_vfp_switches() -> u32 {
    VFP_SWITCHES.load(Ordering::Relaxed)
}

/// mmap of a vCPU's descriptor: the shared page, and the ring of coalesced MMIO, which is the VM's.
///
/// # Safety
/// `object` is the descriptor's, `area` the `struct vm_area_struct` that is being set up.
#[unsafe(no_mangle)]
unsafe extern "C" fn ws_rust_vcpu_mmap(object: *mut c_void, area: *mut c_void, pages: usize, offset: usize) -> i32 {
    // SAFETY: as in `ws_rust_vcpu_ioctl`.
    let object = unsafe { Shared::<VcpuObject>::borrow_raw(object) };
    let parts = [&object.run, object.vm.vm.bus.ring().page()];
    let Some(parts) = parts.get(offset..).filter(|parts| pages <= parts.len()) else {
        return Errno::EINVAL.get();
    };
    for (index, page) in parts.iter().enumerate().take(pages) {
        // SAFETY: the page stays the object's; the mapping takes a reference of its own.
        let result = unsafe { ffi::ws_vcpu_mmap_page(area, index, page.as_ptr().cast()) };
        if result < 0 {
            return result;
        }
    }
    0
}
