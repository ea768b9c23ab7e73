// SPDX-License-Identifier: GPL-2.0-only
//! The C shim as Rust sees it: the declarations of `shim/shim.h`, one for one.
//!
//! Nothing else in the module is `extern`. What each function does and asks for stands in the shim beside its definition.

use core::ffi::c_void;

unsafe extern "C" {
    // memory.c
    pub fn ws_alloc(bytes: usize) -> *mut c_void;
    pub fn ws_free(memory: *mut c_void);
    pub fn ws_pages(order: u32) -> *mut c_void;
    pub safe fn ws_user_page() -> *mut c_void;
    pub fn ws_free_page(memory: *mut c_void);
    pub fn ws_phys_of(lowmem: *const c_void) -> u64;
    pub fn ws_virt_of(phys: u64) -> *mut c_void;
    pub fn ws_copy_from_user(to: *mut c_void, from: usize, bytes: usize) -> i32;
    pub fn ws_copy_to_user(to: usize, from: *const c_void, bytes: usize) -> i32;
    pub safe fn ws_user_limit() -> usize;
    pub fn ws_resolve(address: usize, write: u32, phys: *mut u64, writable: *mut u32, block: *mut u32) -> i32;
    pub fn ws_map_page(phys: u64) -> *mut c_void;
    pub fn ws_unmap_page(mapped: *mut c_void);
    pub fn ws_mm_watch(vm: *mut c_void) -> *mut c_void;
    pub fn ws_mm_unwatch(watch: *mut c_void);
    pub fn ws_mm_is_current(watch: *const c_void) -> u32;

    // pfn_map.c
    pub fn ws_resolve_pfn_map(address: usize, write: u32, phys: *mut u64, writable: *mut u32, device: *mut u32) -> i32;

    // sync.c
    pub safe fn ws_lock_bytes() -> u32;
    pub fn ws_spin_lock(lock: *mut c_void) -> u32;
    pub fn ws_spin_unlock(lock: *mut c_void, flags: u32);
    pub fn ws_mutex_lock(mutex: *mut u32);
    pub fn ws_mutex_lock_killable(mutex: *mut u32) -> i32;
    pub fn ws_mutex_unlock(mutex: *mut u32);
    pub safe fn ws_waiter_create() -> *mut c_void;
    pub fn ws_waiter_destroy(waiter: *mut c_void);
    pub fn ws_waiter_adopt(waiter: *mut c_void);
    pub fn ws_waiter_wait(
        waiter: *mut c_void,
        ready: unsafe extern "C" fn(*const c_void) -> u32,
        argument: *const c_void,
    ) -> u32;
    pub fn ws_waiter_wake(waiter: *mut c_void);
    pub fn ws_waiter_kick(waiter: *mut c_void);
    pub fn ws_waiter_arm(waiter: *mut c_void, nanoseconds: u64);
    pub fn ws_waiter_disarm(waiter: *mut c_void);

    // cpu.c
    pub safe fn ws_cpu() -> u32;
    pub safe fn ws_cpus() -> u32;
    pub safe fn ws_firmware_hardening() -> u32;
    pub safe fn ws_online_cpus() -> u32;
    pub fn ws_irq_save() -> u32;
    pub fn ws_irq_restore(flags: u32);
    pub fn ws_guest_begins() -> u32;
    pub fn ws_guest_ends(flags: u32);
    pub safe fn ws_must_stop() -> u32;
    pub safe fn ws_signal_pending() -> u32;
    pub safe fn ws_work_pending() -> u32;
    pub safe fn ws_return_to_work();
    pub safe fn ws_note_quiescent();
    pub safe fn ws_yield();
    pub fn ws_on_each_cpu(function: unsafe extern "C" fn(*mut c_void), argument: *mut c_void);
    pub fn ws_cpu_events_register() -> i32;
    pub fn ws_cpu_events_unregister();
    pub fn ws_sigmask_set(sigset: *const c_void);
    pub fn ws_sigmask_restore();
    pub fn ws_sigmask_restore_later();

    // halt.c
    pub fn ws_halt_poll(longest: *mut u32, grow: *mut u32, grow_start: *mut u32, shrink: *mut u32);
    pub safe fn ws_may_poll() -> u32;
    pub safe fn ws_halt_rest() -> u32;
    pub safe fn ws_is_alone() -> u32;

    // interrupts.c
    pub fn ws_gic_find(
        gich_phys: *mut u64,
        gich_bytes: *mut u64,
        gicv_phys: *mut u64,
        gicv_bytes: *mut u64,
        gicc_bytes: *mut u64,
    ) -> i32;
    pub safe fn ws_io_map(phys: u64, bytes: u64) -> *mut c_void;
    pub fn ws_io_unmap(mapped: *mut c_void);
    pub fn ws_interrupts_register(
        with_gic: u32,
        splits_eoi: u32,
        timer_hwirq: *mut u32,
        timer_forwarded: *mut u32,
        timer_rate: *mut u32,
    ) -> i32;
    pub fn ws_interrupts_unregister();
    pub safe fn ws_timer_active(active: u32);
    pub safe fn ws_timer_ended();
    pub safe fn ws_timer_masked(masked: u32);

    // trace.c
    pub fn ws_trace(event: u32, fields: *const u64);

    // debugfs.c
    pub fn ws_debugfs_start();
    pub fn ws_debugfs_stop();
    pub fn ws_debugfs_remove(place: *mut c_void);

    // events.c
    pub safe fn ws_eventfd_get(fd: u32) -> *mut c_void;
    pub fn ws_eventfd_put(eventfd: *mut c_void);
    pub fn ws_eventfd_signal(eventfd: *mut c_void);
    pub safe fn ws_irqfd_create(fd: u32) -> *mut c_void;
    pub fn ws_irqfd_eventfd(irqfd: *mut c_void) -> *mut c_void;
    pub fn ws_irqfd_watch(irqfd: *mut c_void, object: *mut c_void) -> u32;
    pub fn ws_irqfd_destroy(irqfd: *mut c_void);
    pub fn ws_irqfd_flush();

    // main.c
    pub fn ws_vcpu_fd(number: u32, object: *mut c_void) -> i32;
    pub fn ws_gic_fd(object: *mut c_void) -> i32;
    pub fn ws_vm_fd(object: *mut c_void, place: *mut *mut c_void) -> i32;
    pub fn ws_device_register() -> i32;
    pub fn ws_device_unregister();
    pub fn ws_vcpu_mmap_page(area: *mut c_void, index: usize, lowmem: *mut c_void) -> i32;
    pub fn ws_log(level: u32, text: *const u8, length: usize);
    pub safe fn ws_no_vfp() -> u32;
    pub safe fn ws_bug() -> !;
}
