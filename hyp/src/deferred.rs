// SPDX-License-Identifier: GPL-2.0-only
//! Deferred state: what may stay the guest's while the host answers a short exit.
//!
//! The host's kernel, with IRQs and FIQs masked, neither uses nor changes it: the banks of the IRQ and FIQ modes, SP_usr, what only
//! User mode and floating point go by (CPACR, TPIDRURW, CNTKCTL, VFP), the virtual timer, the identity and the traps that concern
//! coprocessors. After [`ExitCode::ShortTrap`](hyp_abi::context::ExitCode::ShortTrap) all of it is still in the hardware, and
//! the next `enter_guest` of the same vCPU on the same CPU finds it there. Before anything else the host calls [`leave`].
//! [`PerCpu::resident`] says whose it is.
//!
//! Of the host's, some need no keeping: CSSELR and PAR are written and read back with interrupts off, or in kernels that cannot be
//! preempted between, and never around a KVM_RUN; LR and SPSR of IRQ and FIQ mode are live only in handlers; SP_usr is in the
//! kernel's frame of the system call. r8 to r12 and SP of FIQ mode are a FIQ handler's to keep from one FIQ to the next.
//!
//! FCSEIDR is nobody's. With the Multiprocessing Extensions there is no FCSE and the register ignores writes, but QEMU's ARMv7 cores
//! have it all the same: what a guest writes there would move the addresses below 32 MiB of whoever runs next on the CPU. It is
//! made zero whenever the host's state is loaded, and so is zero for the next guest too. The kernel's own addresses are higher.

use crate::per_cpu::PerCpu;
use crate::{traps, vfp, vtimer};
use core::arch::naked_asm;
use core::mem::{offset_of, size_of};
use hyp_abi::context::{Banks, Cp15, VcpuContext};

/// The host's.
#[repr(C)]
pub struct HostDeferred {
    sp_irq: u32,
    fiq_r: [u32; 5],
    sp_fiq: u32,
    cpacr: u32,
    tpidrurw: u32,
    cntkctl: u32,
}

const _: () = assert!(size_of::<HostDeferred>() == 10 * 4);
// The order in which the guest's stand in its context.
const _: () = assert!(offset_of!(Banks, sp_usr) == 36 && offset_of!(Banks, irq) == 40 && offset_of!(Banks, fiq) == 52);
const _: () = assert!(offset_of!(Banks, fiq_r) == 64 && size_of::<Banks>() == 84);
const _: () = assert!(offset_of!(Cp15, csselr) == 84 && offset_of!(Cp15, par) == 88 && offset_of!(Cp15, cpacr) == 96);
const _: () = assert!(offset_of!(Cp15, tpidrurw) == 100 && offset_of!(Cp15, cntkctl) == 104);

/// Where the deferred banks begin in a context.
const BANKS: usize = offset_of!(VcpuContext, banks) + offset_of!(Banks, sp_usr);
/// Where the deferred registers of CP15 begin.
const CP15: usize = offset_of!(VcpuContext, cp15) + offset_of!(Cp15, csselr);

/// Exchanges host for guest. `context` is kept for [`leave`]: whoever refers to it until then does so through the same pointer, for
/// so long as `leave` is not called.
///
/// # Safety
/// Hyp mode; the essential state is being exchanged likewise; `context` is valid and this CPU's alone until [`leave`].
#[inline(always)]
pub unsafe fn load(here: &mut PerCpu, context: *mut VcpuContext) {
    // SAFETY: promised by the caller; the host's is stored before the guest's is loaded, and `resident` tells the panic vector.
    unsafe {
        save_host(&mut here.host.deferred);
        here.resident = context;
        let context = &*context;
        vfp::arm(here, context);
        traps::load_deferred(here, &context.control);
        vtimer::load(here, &context.timer);
        load_guest(context);
    }
}

/// Exchanges guest for host, whether or not the essential state is still the guest's. Does nothing if there is no guest's.
///
/// # Safety
/// Hyp mode.
#[inline(always)]
pub unsafe fn leave(here: &mut PerCpu) {
    if here.resident.is_null() {
        return;
    }
    // SAFETY: `load` put it there; its context is this CPU's alone until now, and nobody's reference to it is used any more.
    let context = unsafe { &mut *here.resident };
    // SAFETY: the guest's is stored before the host's is loaded.
    unsafe {
        save_guest(context);
        vtimer::save(here, &mut context.timer);
        unload(here, Some(context));
    }
}

/// Loads the host's over what a guest left, keeping its floating point if there still is a context for it.
///
/// # Safety
/// As [`leave`].
pub unsafe fn unload(here: &mut PerCpu, context: Option<&mut VcpuContext>) {
    // SAFETY: what is loaded is what `load` stored on this CPU.
    unsafe {
        traps::unload_deferred(here);
        vfp::give_to_host(here, context);
        load_host(&here.host.deferred);
    }
    here.resident = core::ptr::null_mut();
}

/// The call that ends a short exit.
pub extern "C" fn leave_guest() {
    // SAFETY: this CPU's page, which no other code refers to while this call lasts.
    unsafe { leave(&mut *PerCpu::here()) };
}

#[unsafe(naked)]
unsafe extern "C" fn save_host(to: *mut HostDeferred) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r10, lr}}",
        "mrs r1, SP_irq",
        "mrs r2, r8_fiq",
        "mrs r3, r9_fiq",
        "mrs r4, r10_fiq",
        "mrs r5, r11_fiq",
        "mrs r6, r12_fiq",
        "mrs r7, SP_fiq",
        read!("r8", cpacr),
        read!("r9", tpidrurw),
        read!("r10", cntkctl),
        "stm r0, {{r1-r10}}",
        "pop {{r4-r10, pc}}",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn load_host(from: *const HostDeferred) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r10, lr}}",
        "ldm r0, {{r1-r10}}",
        "msr SP_irq, r1",
        "msr r8_fiq, r2",
        "msr r9_fiq, r3",
        "msr r10_fiq, r4",
        "msr r11_fiq, r5",
        "msr r12_fiq, r6",
        "msr SP_fiq, r7",
        write!("r8", cpacr),
        write!("r9", tpidrurw),
        write!("r10", cntkctl),
        "mov r1, #0",
        write!("r1", fcseidr),
        "pop {{r4-r10, pc}}",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn save_guest(to: *mut VcpuContext) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "add lr, r0, #{banks}",
        "mrs r1, SP_usr",
        "mrs r2, SP_irq",
        "mrs r3, LR_irq",
        "mrs r4, SPSR_irq",
        "mrs r5, SP_fiq",
        "mrs r6, LR_fiq",
        "mrs r7, SPSR_fiq",
        "mrs r8, r8_fiq",
        "mrs r9, r9_fiq",
        "mrs r10, r10_fiq",
        "mrs r11, r11_fiq",
        "mrs r12, r12_fiq",
        "stm lr, {{r1-r12}}",
        "add lr, r0, #{cp15}",
        read!("r1", csselr),
        read!("r2", "r3", par),
        read!("r4", cpacr),
        read!("r5", tpidrurw),
        read!("r6", cntkctl),
        "stm lr, {{r1-r6}}",
        "pop {{r4-r11, pc}}",
        banks = const BANKS,
        cp15 = const CP15,
    )
}

#[unsafe(naked)]
unsafe extern "C" fn load_guest(from: *const VcpuContext) {
    naked_asm!(
        ".arch_extension virt",
        "push {{r4-r11, lr}}",
        "add lr, r0, #{banks}",
        "ldm lr, {{r1-r12}}",
        "msr SP_usr, r1",
        "msr SP_irq, r2",
        "msr LR_irq, r3",
        "msr SPSR_irq, r4",
        "msr SP_fiq, r5",
        "msr LR_fiq, r6",
        "msr SPSR_fiq, r7",
        "msr r8_fiq, r8",
        "msr r9_fiq, r9",
        "msr r10_fiq, r10",
        "msr r11_fiq, r11",
        "msr r12_fiq, r12",
        "add lr, r0, #{cp15}",
        "ldm lr, {{r1-r6}}",
        write!("r1", csselr),
        write!("r2", "r3", par),
        write!("r4", cpacr),
        write!("r5", tpidrurw),
        write!("r6", cntkctl),
        "pop {{r4-r11, pc}}",
        banks = const BANKS,
        cp15 = const CP15,
    )
}
