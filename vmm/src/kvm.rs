// SPDX-License-Identifier: GPL-2.0-only
//! KVM by types: the system, a virtual machine, a vCPU, and the GIC that the kernel models.

pub mod state;

use std::io;
use std::sync::Arc;

use uapi::{IrqLevel, IrqLine, UserspaceMemoryRegion, VcpuInit};

use crate::error::Error;
use crate::guest_memory::GuestRam;
use crate::kvm_fd::{KvmFd, RunPage};
use crate::layout::{GIC_INTERRUPTS, GICC, GICD};

/// Turns a failed call into a line for a person.
fn failed(call: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| {
        let advice = match (call, source.raw_os_error()) {
            ("KVM_CREATE_VM", Some(libc::ENOMEM)) => {
                ". The host is out of memory: end another machine, or give --mem less"
            }
            ("KVM_CREATE_DEVICE of a GICv2", Some(libc::ENODEV)) => {
                ". This host's interrupt controller has nothing for guests, which wsvm's need: use a monitor that emulates one"
            }
            ("KVM_RUN", Some(libc::EFAULT)) => ". The host took the guest's memory away",
            (_, Some(libc::ENOTTY | libc::EINVAL)) => ". Is this the worldswitch module, of this version?",
            (_, Some(libc::ENOMEM)) => ". The host is out of memory",
            _ => "",
        };
        Error::Kvm { call, source, advice }
    }
}

/// `/dev/kvm`, checked for what wsvm needs.
pub struct Kvm {
    system: KvmFd,
    run_page_size: usize,
}

impl Kvm {
    /// Opens `/dev/kvm`.
    pub fn open() -> Result<Self, Error> {
        let system = KvmFd::open().map_err(|source| {
            let advice = match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => "Load the module: insmod worldswitch.ko",
                Some(libc::EACCES | libc::EPERM) => "Become root, or a member of the group that owns it",
                _ => "Look for the module's lines in dmesg",
            };
            Error::OpenKvm { source, advice }
        })?;
        let version = system.value(uapi::KVM_GET_API_VERSION, 0).map_err(failed("KVM_GET_API_VERSION"))?;
        if version != uapi::KVM_API_VERSION as i32 {
            return Err(Error::ApiVersion(version));
        }
        let size = system.value(uapi::KVM_GET_VCPU_MMAP_SIZE, 0).map_err(failed("KVM_GET_VCPU_MMAP_SIZE"))?;
        let kvm = Self { system, run_page_size: size as usize };
        for (capability, name) in [
            (uapi::KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"),
            (uapi::KVM_CAP_ONE_REG, "KVM_CAP_ONE_REG"),
            (uapi::KVM_CAP_ARM_PSCI_0_2, "KVM_CAP_ARM_PSCI_0_2"),
            (uapi::KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL"),
            (uapi::KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"),
        ] {
            if kvm.extension(capability)? == 0 {
                return Err(Error::MissingCapability(name));
            }
        }
        Ok(kvm)
    }

    /// The value of a capability.
    pub fn extension(&self, capability: u32) -> Result<u32, Error> {
        let value = self.system.value(uapi::KVM_CHECK_EXTENSION, capability).map_err(failed("KVM_CHECK_EXTENSION"))?;
        Ok(value as u32)
    }

    /// Makes a virtual machine that has `ram` for its memory.
    pub fn create_vm(&self, ram: Arc<GuestRam>) -> Result<Vm, Error> {
        let fd = self.system.create(uapi::KVM_CREATE_VM, 0).map_err(failed("KVM_CREATE_VM"))?;
        let guest = ram.guest();
        let region = UserspaceMemoryRegion {
            slot: 0,
            flags: 0,
            guest_phys_addr: guest.start,
            memory_size: guest.end - guest.start,
            userspace_addr: ram.host_address(),
        };
        // SAFETY: `ram` is mapped for the guest alone, is accessed here only through volatile accesses, and outlives all that can run
        // the guest: `Vm` and each `Vcpu` hold it, and drop it after their descriptor.
        unsafe { fd.set_memory(&region) }.map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        Ok(Vm { fd, ram, run_page_size: self.run_page_size })
    }
}

/// A virtual machine.
pub struct Vm {
    fd: KvmFd,
    ram: Arc<GuestRam>,
    run_page_size: usize,
}

impl Vm {
    /// What kind of vCPU this host runs best.
    pub fn preferred_target(&self) -> Result<VcpuInit, Error> {
        let mut init = VcpuInit::default();
        self.fd.read(uapi::KVM_ARM_PREFERRED_TARGET, &mut init).map_err(failed("KVM_ARM_PREFERRED_TARGET"))?;
        Ok(init)
    }

    /// Makes vCPU `id`.
    pub fn create_vcpu(&self, id: u32) -> Result<Vcpu, Error> {
        let fd = self.fd.create(uapi::KVM_CREATE_VCPU, id).map_err(failed("KVM_CREATE_VCPU"))?;
        let page = RunPage::map(&fd, self.run_page_size).map_err(failed("mmap of a vCPU"))?;
        Ok(Vcpu { fd, page: Arc::new(page), id, _ram: self.ram.clone() })
    }

    /// Makes a GICv2 where the memory map has it. All vCPUs exist before it is initialised. It lives as long as the machine does,
    /// whatever becomes of its descriptor.
    pub fn create_gic(&self) -> Result<Gic, Error> {
        let device =
            self.fd.create_device(uapi::KVM_DEV_TYPE_ARM_VGIC_V2).map_err(failed("KVM_CREATE_DEVICE of a GICv2"))?;
        let set = failed("KVM_SET_DEVICE_ATTR of the GIC");
        let addresses = [(uapi::KVM_VGIC_V2_ADDR_TYPE_DIST, GICD.start), (uapi::KVM_VGIC_V2_ADDR_TYPE_CPU, GICC.start)];
        for (kind, address) in addresses {
            device.set_attribute(uapi::KVM_DEV_ARM_VGIC_GRP_ADDR, kind, Some(&address)).map_err(&set)?;
        }
        device.set_attribute(uapi::KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, Some(&GIC_INTERRUPTS)).map_err(&set)?;
        device
            .set_attribute::<u32>(uapi::KVM_DEV_ARM_VGIC_GRP_CTRL, uapi::KVM_DEV_ARM_VGIC_CTRL_INIT, None)
            .map_err(&set)?;
        Ok(Gic { device })
    }

    /// Sets the level of an interrupt line.
    pub fn set_line(&self, line: IrqLine, level: bool) -> io::Result<()> {
        self.fd.write(uapi::KVM_IRQ_LINE, &IrqLevel { irq: line.encode(), level: level.into() })
    }
}

/// The kernel's model of a GICv2.
pub struct Gic {
    device: KvmFd,
}

/// A vCPU.
pub struct Vcpu {
    fd: KvmFd,
    page: Arc<RunPage>,
    id: u32,
    _ram: Arc<GuestRam>,
}

impl Vcpu {
    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Gives it its type and features and resets it.
    pub fn init(&self, init: &VcpuInit) -> Result<(), Error> {
        self.fd.write(uapi::KVM_ARM_VCPU_INIT, init).map_err(failed("KVM_ARM_VCPU_INIT"))
    }

    /// Writes a register of 32 bits.
    pub fn set_register(&self, id: u64, value: u32) -> Result<(), Error> {
        self.fd.set_register(id, value).map_err(failed("KVM_SET_ONE_REG"))
    }

    /// Reads a register of 32 bits.
    pub fn register(&self, id: u64) -> Result<u32, Error> {
        self.fd.register(id).map_err(failed("KVM_GET_ONE_REG"))
    }

    /// Runs the guest until it needs something.
    pub fn run(&mut self) -> Result<uapi::Exit, Error> {
        match self.fd.run() {
            Ok(()) => Ok(self.page.exit()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(uapi::Exit::Interrupted),
            Err(error) => Err(failed("KVM_RUN")(error)),
        }
    }

    /// Whether another thread has asked it to exit immediately.
    pub fn asked_to_exit(&self) -> bool {
        self.page.asked_to_exit()
    }

    /// Answers a device read.
    pub fn answer_mmio(&mut self, data: [u8; 8]) {
        self.page.answer_mmio(data);
    }

    /// The page through which other threads interrupt it.
    pub fn page(&self) -> Arc<RunPage> {
        self.page.clone()
    }
}
