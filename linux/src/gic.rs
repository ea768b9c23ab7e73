// SPDX-License-Identifier: GPL-2.0-only
//! The physical GICv2's virtual interface: GICH, through which the hypervisor presents interrupts, and GICV, which the guest
//! sees as its CPU interface.
//!
//! GICH is per CPU at one address. It is written from the kernel, with interrupts off, just before a guest is entered and read
//! just after: the registers act only while the guest runs (HCR.IMO). GICH_HCR is off whenever the host has interrupts on.

use crate::errno::{Errno, Result};
use crate::ffi;
use arch::addr::HostPhys;
use arch::gic::{ListRegister, gich};
use core::arch::asm;
use core::ffi::c_void;
use core::sync::atomic::{AtomicU32, Ordering};
use hyp_abi::layout::MAX_CPUS;
use kvm::vgic::{CpuInterface, LIST_REGISTERS};

/// This CPU's virtual interface may hold anything: it was off, or somebody else's.
pub fn forget_here() {
    if let Some(filled) = FILLED.get(ffi::ws_cpu() as usize) {
        filled.store(u32::MAX, Ordering::Relaxed);
    }
}

/// The regions that the device tree names, and GICH mapped.
pub struct Gic {
    gich: *mut u32,
    /// Where the guest's CPU interface really is.
    pub gicv: HostPhys,
    /// Whether the CPU interface can drop priority and deactivate apart (it has the page with GICC_DIR).
    pub splits_end_of_interrupt: bool,
    list_registers: usize,
}

// SAFETY: the pointer is to registers of the calling CPU; callers have interrupts off.
unsafe impl Send for Gic {}
// SAFETY: as above.
unsafe impl Sync for Gic {}

/// How many list registers of a CPU's hardware may hold anything: those beyond what the next guest uses are to be emptied. At first
/// all, since an earlier owner may have left something there.
static FILLED: [AtomicU32; MAX_CPUS as usize] = [const { AtomicU32::new(u32::MAX) }; MAX_CPUS as usize];
/// The smallest GICH region that holds the registers this module uses.
const GICH_BYTES: u64 = 0x140;
/// Size of a GICV region that can be mapped into a guest: two pages, aligned.
const GICV_BYTES: u64 = 0x2000;

/// Notes that so many list registers of this CPU's hardware are filled; how many might have been. Interrupts are off.
#[inline(always)]
fn set_filled_here(used: usize) -> usize {
    FILLED.get(ffi::ws_cpu() as usize).map_or(0, |filled| {
        // This CPU's alone, and interrupts are off: no exclusive access is needed.
        let before = filled.load(Ordering::Relaxed) as usize;
        filled.store(used as u32, Ordering::Relaxed);
        before
    })
}

impl Gic {
    /// Finds and maps the virtual interface. `None`: the host has no GICv2 with the virtualization extensions, or one that cannot be mapped
    /// into a guest.
    ///
    /// # Errors
    /// ENODEV: there is a GICv3.
    pub fn find() -> Result<Option<Self>> {
        let (mut gich, mut gich_bytes, mut gicv, mut gicv_bytes, mut gicc_bytes) = (0, 0, 0, 0, 0);
        // SAFETY: five places to write to.
        let found =
            unsafe { ffi::ws_gic_find(&mut gich, &mut gich_bytes, &mut gicv, &mut gicv_bytes, &mut gicc_bytes) };
        match Errno::check(found) {
            Ok(_) => {}
            Err(Errno::ENODEV) => return Ok(None),
            Err(_) => {
                crate::error!(
                    "a GICv3 in the device tree, from whose registers no guest could be kept: cannot work here"
                );
                return Err(Errno::ENODEV);
            }
        }
        if gich_bytes < GICH_BYTES || gicv_bytes < GICV_BYTES || gicv & 0xfff != 0 {
            crate::info!(
                "GICH of {gich_bytes:#x} bytes, GICV of {gicv_bytes:#x} bytes at {gicv:#x}: cannot be given to a guest"
            );
            return Ok(None);
        }
        let mapped = ffi::ws_io_map(gich, gich_bytes);
        if mapped.is_null() {
            return Err(Errno::ENOMEM);
        }
        let mut gic = Self {
            gich: mapped.cast(),
            gicv: HostPhys::new(gicv),
            splits_end_of_interrupt: gicc_bytes >= 0x2000,
            list_registers: 0,
        };
        gic.list_registers = (gic.read(gich::VTR) & 0x3f) as usize + 1;
        Ok(Some(gic))
    }

    /// How many list registers there are.
    pub fn list_registers(&self) -> usize {
        self.list_registers
    }

    /// Gives a vCPU's interrupts to the hardware, in the order that [`CpuInterface`] asks for. Interrupts are off.
    pub fn load(&self, interface: &CpuInterface) {
        self.write(gich::VMCR, interface.vmcr);
        self.write(gich::APR, interface.apr);
        let before = set_filled_here(interface.used).min(self.list_registers.min(LIST_REGISTERS));
        self.fill(interface, before);
    }

    /// The same between two short stays: VMCR and APR are as [`Self::store`] has found them, and `before` list registers were in use.
    pub fn reload(&self, interface: &CpuInterface, before: usize) {
        if interface.used > before {
            set_filled_here(interface.used);
        }
        self.fill(interface, before);
    }

    #[inline(always)]
    fn fill(&self, interface: &CpuInterface, before: usize) {
        for (index, register) in interface.lr.iter().enumerate().take(interface.used) {
            self.write(gich::LR0 + index as u32 * 4, register.raw());
        }
        for index in interface.used..before {
            self.write(gich::LR0 + index as u32 * 4, 0);
        }
        self.write(gich::HCR, interface.hcr);
        // Device writes are complete before the guest can look at GICV, which is another region (A3.8.3).
        // SAFETY: a barrier.
        unsafe { asm!("dsb st", options(nostack, preserves_flags)) };
    }

    /// Takes a vCPU's interrupts back and silences the hardware. Interrupts are off.
    pub fn store(&self, interface: &mut CpuInterface) {
        interface.vmcr = self.read(gich::VMCR);
        if interface.is_in_use() {
            interface.hcr = self.read(gich::HCR);
            interface.apr = self.read(gich::APR);
            for (index, register) in interface.lr.iter_mut().enumerate().take(interface.used) {
                let before = *register;
                *register = ListRegister::from_raw(self.read(gich::LR0 + index as u32 * 4));
                if before.hardware().is_some() && !register.valid() {
                    // The guest's deactivation went through to the physical interrupt.
                    ffi::ws_timer_ended();
                }
            }
        }
        // Off also while list registers are exchanged: no two valid ones may name the same interrupt (ARM IHI 0048B, 5.2).
        self.write(gich::HCR, 0);
    }

    /// Reads the register at a byte offset, one of [`gich`].
    #[inline(always)]
    fn read(&self, offset: u32) -> u32 {
        // SAFETY: registers of this CPU; those of `gich`, and list registers below `LIST_REGISTERS`, lie within the GICH_BYTES that
        // `find` demands of the region.
        unsafe { self.gich.add(offset as usize / 4).read_volatile() }
    }

    /// Writes the register at a byte offset, one of [`gich`].
    #[inline(always)]
    fn write(&self, offset: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe { self.gich.add(offset as usize / 4).write_volatile(value) };
    }
}

const _: () = assert!(gich::LR0 as u64 + 4 * LIST_REGISTERS as u64 <= GICH_BYTES);

impl Drop for Gic {
    fn drop(&mut self) {
        // SAFETY: mapped in `find`, and nobody has the pointer any more.
        unsafe { ffi::ws_io_unmap(self.gich.cast::<c_void>()) };
    }
}
