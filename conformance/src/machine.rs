// SPDX-License-Identifier: GPL-2.0-only
//! The virtual machine that most cases use: memory with a program in it, vCPUs that start there, a GIC.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;
use std::os::unix::thread::JoinHandleExt;
use uapi::{Exit, Mmio, UserspaceMemoryRegion, VcpuInit, core_index, core_reg};

use crate::code::Program;
use crate::memory_map::{Memory, PAGE};
use crate::sys::{Answer, Fd, RunPage};
use crate::verdict::{Failure, Outcome, Verdict, equal};

/// Where the guest has its memory; programs begin there.
pub const RAM: u32 = 0x8000_0000;
/// Bytes of it.
pub const RAM_BYTES: usize = 16 * PAGE;
/// An address without memory.
pub const DEVICE: u32 = 0x1000_0000;
/// Where the distributor is.
pub const GICD: u32 = 0x0800_0000;
/// Where the CPU interface is.
pub const GICC: u32 = 0x0801_0000;

/// The core register PC.
pub const PC: u64 = core_reg(core_index::PC);
/// The core register CPSR.
pub const CPSR: u64 = core_reg(core_index::CPSR);

/// The core register r`number`, 0 to 12.
pub const fn r(number: u16) -> u64 {
    core_reg(core_index::R0 + number)
}

/// A region for [`Fd::slot`]: writable, and nothing is noted.
pub fn region(slot: u32, guest_phys_addr: u64, memory_size: u64, userspace_addr: u64) -> UserspaceMemoryRegion {
    UserspaceMemoryRegion { slot, flags: 0, guest_phys_addr, memory_size, userspace_addr }
}

/// A virtual machine.
pub struct Machine {
    /// `/dev/kvm`.
    pub kvm: Fd,
    /// The virtual machine's descriptor.
    pub vm: Fd,
    /// Its memory, from [`RAM`] on.
    pub ram: Arc<Memory>,
}

impl Machine {
    /// One without anything.
    pub fn empty() -> Result<(Fd, Fd), Failure> {
        let kvm = Fd::kvm().succeeds("opening /dev/kvm")?;
        let vm = kvm.create(uapi::KVM_CREATE_VM, 0).succeeds("KVM_CREATE_VM")?;
        Ok((kvm, vm))
    }

    /// One with memory, at whose beginning `program` lies.
    pub fn new(program: &Program) -> Result<Self, Failure> {
        Self::over(Memory::new(RAM_BYTES).succeeds("mmap")?, program)
    }

    /// The same over the given memory.
    pub fn over(ram: Memory, program: &Program) -> Result<Self, Failure> {
        let (kvm, vm) = Self::empty()?;
        ram.put(0, program.words());
        let slot = region(0, RAM.into(), ram.bytes() as u64, ram.address(0));
        vm.slot(&slot).succeeds("KVM_SET_USER_MEMORY_REGION")?;
        Ok(Self { kvm, vm, ram: Arc::new(ram) })
    }

    /// The target of this host, with PSCI 0.2.
    pub fn target(&self) -> Result<VcpuInit, Failure> {
        preferred_target(&self.vm)
    }

    /// A vCPU that starts at [`RAM`].
    pub fn vcpu(&self, id: usize) -> Result<Arc<Vcpu>, Failure> {
        let vcpu = self.blank_vcpu(id)?;
        vcpu.init(&self.target()?).succeeds("KVM_ARM_VCPU_INIT")?;
        vcpu.fd.set_register(PC, RAM.into()).succeeds("writing PC")?;
        Ok(vcpu)
    }

    /// A vCPU that is not initialised.
    pub fn blank_vcpu(&self, id: usize) -> Result<Arc<Vcpu>, Failure> {
        let fd = self.vm.create(uapi::KVM_CREATE_VCPU, id).succeeds("KVM_CREATE_VCPU")?;
        let bytes = self.kvm.value(uapi::KVM_GET_VCPU_MMAP_SIZE, 0).succeeds("KVM_GET_VCPU_MMAP_SIZE")?;
        let page = RunPage::map(&fd, bytes as usize).succeeds("mmap of a vCPU")?;
        Ok(Arc::new(Vcpu { fd, page }))
    }

    /// A GIC at [`GICD`] and [`GICC`], initialised. After the vCPUs.
    pub fn gic(&self) -> Result<Fd, Failure> {
        let gic = self.vm.create_device(uapi::KVM_DEV_TYPE_ARM_VGIC_V2).succeeds("KVM_CREATE_DEVICE")?;
        place_gic(&gic)?;
        let init = set_attribute(&gic, uapi::KVM_DEV_ARM_VGIC_GRP_CTRL, uapi::KVM_DEV_ARM_VGIC_CTRL_INIT, 0);
        init.succeeds("KVM_DEV_ARM_VGIC_CTRL_INIT")?;
        Ok(gic)
    }

    /// Waits until the guest has written `value` to the word at `offset`.
    pub fn await_word(&self, offset: usize, value: u32, what: &str) -> Verdict {
        await_that(|| self.ram.read(offset) == value).map_err(|_| {
            Failure::new(format!("{what}: the guest's word is {:#x} instead of {value:#x}", self.ram.read(offset)))
        })
    }
}

/// Waits until something is so, for some seconds.
pub fn await_that(so: impl Fn() -> bool) -> Result<(), Errno> {
    await_longer(20, so)
}

/// Waits until something is so, for that many seconds.
pub fn await_longer(seconds: u64, so: impl Fn() -> bool) -> Result<(), Errno> {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !so() {
        if Instant::now() > end {
            return Err(Errno::ETIMEDOUT);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The target of this host, with PSCI 0.2.
pub fn preferred_target(vm: &Fd) -> Result<VcpuInit, Failure> {
    let mut init = VcpuInit::default();
    vm.give(uapi::KVM_ARM_PREFERRED_TARGET, &mut init).succeeds("KVM_ARM_PREFERRED_TARGET")?;
    init.set(uapi::KVM_ARM_VCPU_PSCI_0_2);
    Ok(init)
}

/// Writes all registers of one vCPU into another, in the order of their list.
pub fn copy_registers(from: &Vcpu, to: &Vcpu) -> Verdict {
    let (count, ids, _) = from.fd.register_list(1024);
    equal(ids.len() as u64, count, "the registers that were listed")?;
    for id in ids {
        let value = from.fd.register(id).succeeds(format_args!("reading register {id:#x}"))?;
        to.fd.set_register(id, value).succeeds(format_args!("writing {value:#x} to register {id:#x}"))?;
    }
    Ok(())
}

/// Puts a GIC at [`GICD`] and [`GICC`].
pub fn place_gic(gic: &Fd) -> Verdict {
    for (kind, address) in [(uapi::KVM_VGIC_V2_ADDR_TYPE_DIST, GICD), (uapi::KVM_VGIC_V2_ADDR_TYPE_CPU, GICC)] {
        set_attribute(gic, uapi::KVM_DEV_ARM_VGIC_GRP_ADDR, kind, address.into()).succeeds("the GIC's address")?;
    }
    Ok(())
}

/// KVM_SET_DEVICE_ATTR with a value.
pub fn set_attribute(device: &Fd, group: u32, attr: u64, mut value: u64) -> Answer {
    device.attribute(uapi::KVM_SET_DEVICE_ATTR, group, attr, &mut value)
}

/// A vCPU.
pub struct Vcpu {
    /// Its descriptor.
    pub fd: Fd,
    /// What it shares with the kernel.
    pub page: RunPage,
}

impl Vcpu {
    /// KVM_ARM_VCPU_INIT.
    pub fn init(&self, init: &VcpuInit) -> Answer {
        self.fd.give(uapi::KVM_ARM_VCPU_INIT, &mut { *init })
    }

    /// KVM_RUN, and why it returned.
    pub fn run(&self) -> Result<Exit, Errno> {
        self.fd.value(uapi::KVM_RUN, 0)?;
        Ok(self.page.exit())
    }

    /// Runs until the guest writes `len` bytes to a device.
    pub fn expect_write(&self, address: u32, len: u32, value: u32) -> Verdict {
        let mut data = [0; 8];
        data[..4].copy_from_slice(&value.to_le_bytes());
        let expected = Exit::Mmio(Mmio { phys_addr: address.into(), data, len, is_write: true });
        let mut exit = self.run().succeeds("KVM_RUN until a device write")?;
        if let Exit::Mmio(mmio) = &mut exit {
            mmio.data[len as usize..].fill(0);
        }
        equal(exit, expected, "the exit of a device write")
    }

    /// Runs until the guest reads `len` bytes from a device, and answers.
    pub fn expect_read(&self, address: u32, len: u32, answer: u32) -> Verdict {
        let mut exit = self.run().succeeds("KVM_RUN until a device read")?;
        if let Exit::Mmio(mmio) = &mut exit {
            mmio.data = [0; 8];
        }
        equal(
            exit,
            Exit::Mmio(Mmio { phys_addr: address.into(), data: [0; 8], len, is_write: false }),
            "the exit of a device read",
        )?;
        self.page.answer(u64::from(answer).to_le_bytes());
        Ok(())
    }

    /// Has the access that KVM_RUN last returned for done, and no more: only then is the vCPU's state of one piece.
    pub fn finish_access(&self) -> Verdict {
        self.page.exit_immediately(true);
        let answer = self.run();
        self.page.exit_immediately(false);
        answer.fails(Errno::EINTR, "KVM_RUN that is to leave at once")
    }

    /// Runs until the guest ends the machine.
    pub fn expect_off(&self) -> Verdict {
        let exit = self.run().succeeds("KVM_RUN until the end")?;
        equal(exit, Exit::SystemEvent { event: uapi::KVM_SYSTEM_EVENT_SHUTDOWN, flags: 0 }, "the exit of SYSTEM_OFF")
    }

    /// KVM_GET_MP_STATE.
    pub fn mp_state(&self) -> Result<u32, Failure> {
        let mut state = uapi::MpState::default();
        self.fd.give(uapi::KVM_GET_MP_STATE, &mut state).succeeds("KVM_GET_MP_STATE")?;
        Ok(state.mp_state)
    }

    /// Runs it in a thread of its own.
    pub fn start(self: &Arc<Self>) -> Running {
        let vcpu = self.clone();
        Running(std::thread::spawn(move || vcpu.run()))
    }
}

/// A vCPU in a thread of its own.
pub struct Running(JoinHandle<Result<Exit, Errno>>);

impl Running {
    /// A thread that runs one, in its own way.
    pub fn of(thread: JoinHandle<Result<Exit, Errno>>) -> Self {
        Self(thread)
    }

    /// Whether KVM_RUN has returned.
    pub fn has_returned(&self) -> bool {
        self.0.is_finished()
    }

    /// KVM_RUN has not returned; `what` says why it should not have. If it has, the failure says with what.
    pub fn still(self, what: &str) -> Result<Self, Failure> {
        if !self.has_returned() {
            return Ok(self);
        }
        Err(Failure::new(format!("not so: {what}: KVM_RUN returned {:?}", self.join())))
    }

    /// Waits until KVM_RUN returns by itself, with success.
    pub fn result(self) -> Result<Exit, Failure> {
        self.result_or_errno()?.succeeds("KVM_RUN")
    }

    /// Waits until KVM_RUN returns by itself.
    pub fn result_or_errno(self) -> Result<Result<Exit, Errno>, Failure> {
        await_that(|| self.has_returned()).succeeds("waiting for KVM_RUN to return")?;
        Ok(self.join())
    }

    fn join(self) -> Result<Exit, Errno> {
        self.0.join().expect("the thread does not panic")
    }

    /// Sends its thread a signal.
    pub fn signal(&self) {
        let _ = pthread_kill(self.0.as_pthread_t(), Signal::SIGUSR1);
    }

    /// Sends its thread a signal, again and again until it returns, since the first may come before it runs.
    pub fn interrupt(self) -> Result<Exit, Errno> {
        let end = Instant::now() + Duration::from_secs(20);
        while !self.has_returned() {
            if Instant::now() > end {
                return Err(Errno::ETIMEDOUT);
            }
            self.signal();
            std::thread::sleep(Duration::from_millis(1));
        }
        self.join()
    }

    /// Interrupts it, which should end KVM_RUN with EINTR.
    pub fn stop(self) -> Verdict {
        self.interrupt().fails(Errno::EINTR, "KVM_RUN when a signal comes")
    }
}
