/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The boundary between the kernel's C and the module's Rust.
 *
 * Only u32, u64, unsigned long (Rust: usize), int (Rust: i32) and pointers cross it; addresses of physical memory are u64,
 * since phys_addr_t has two sizes. Functions named ws_rust_* are Rust's, all others stand in this folder. Logic is Rust's;
 * a function here wraps what is a macro, an inline, or differs between kernels.
 */
#ifndef WORLDSWITCH_SHIM_H
#define WORLDSWITCH_SHIM_H

#include <linux/types.h>

struct page;
struct file;
struct vm_area_struct;

/* Called by Rust: memory.c */
void *ws_alloc(unsigned long bytes);
void ws_free(void *memory);
void *ws_pages(u32 order);
void *ws_user_page(void);
void ws_free_page(void *memory);
u64 ws_phys_of(const void *lowmem);
void *ws_virt_of(u64 phys);
int ws_copy_from_user(void *to, unsigned long from, unsigned long bytes);
int ws_copy_to_user(unsigned long to, const void *from, unsigned long bytes);
unsigned long ws_user_limit(void);
int ws_resolve(unsigned long address, u32 write, u64 *phys, u32 *writable, u32 *block);
void *ws_map_page(u64 phys);
void ws_unmap_page(void *mapped);
void *ws_mm_watch(void *vm);
void ws_mm_unwatch(void *watch);
u32 ws_mm_is_current(const void *watch);

/* Called by Rust: pfn_map.c */
int ws_resolve_pfn_map(unsigned long address, u32 write, u64 *phys, u32 *writable, u32 *device);

/* Called by Rust: sync.c */
u32 ws_lock_bytes(void);
u32 ws_spin_lock(void *lock);
void ws_spin_unlock(void *lock, u32 flags);
void ws_mutex_lock(u32 *mutex);
int ws_mutex_lock_killable(u32 *mutex);
void ws_mutex_unlock(u32 *mutex);
void *ws_waiter_create(void);
void ws_waiter_destroy(void *waiter);
void ws_waiter_adopt(void *waiter);
u32 ws_waiter_wait(void *waiter, u32 (*ready)(const void *), const void *argument);
void ws_waiter_wake(void *waiter);
void ws_waiter_kick(void *waiter);
void ws_waiter_arm(void *waiter, u64 nanoseconds);
void ws_waiter_disarm(void *waiter);

/* Called by Rust: cpu.c */
u32 ws_cpu(void);
u32 ws_cpus(void);
u32 ws_firmware_hardening(void);
u32 ws_online_cpus(void);
u32 ws_irq_save(void);
void ws_irq_restore(u32 flags);
u32 ws_guest_begins(void);
void ws_guest_ends(u32 flags);
u32 ws_must_stop(void);
u32 ws_signal_pending(void);
u32 ws_work_pending(void);
void ws_return_to_work(void);
void ws_note_quiescent(void);
void ws_yield(void);
void ws_on_each_cpu(void (*function)(void *), void *argument);
int ws_cpu_events_register(void);
void ws_cpu_events_unregister(void);
void ws_sigmask_set(const void *sigset);
void ws_sigmask_restore(void);
void ws_sigmask_restore_later(void);

/* Called by Rust: halt.c */
void ws_halt_poll(u32 *longest, u32 *grow, u32 *grow_start, u32 *shrink);
u32 ws_may_poll(void);
u32 ws_halt_rest(void);
u32 ws_is_alone(void);

/* Called by Rust: interrupts.c */
int ws_gic_find(u64 *gich_phys, u64 *gich_bytes, u64 *gicv_phys, u64 *gicv_bytes, u64 *gicc_bytes);
void *ws_io_map(u64 phys, u64 bytes);
void ws_io_unmap(void *mapped);
int ws_interrupts_register(u32 with_gic, u32 splits_eoi, u32 *timer_hwirq, u32 *timer_forwarded, u32 *timer_rate);
void ws_interrupts_unregister(void);
void ws_interrupts_enable_here(void);
void ws_interrupts_disable_here(void);
void ws_timer_active(u32 active);
void ws_timer_ended(void);
void ws_timer_masked(u32 masked);

/* Called by Rust: trace.c */
void ws_trace(u32 event, const u64 *fields);

/* Called by Rust: debugfs.c */
void ws_debugfs_start(void);
void ws_debugfs_stop(void);
int ws_debugfs_add(void *vm, int fd, void **place);
void ws_debugfs_remove(void *place);

/* Called by Rust: events.c */
void *ws_eventfd_get(u32 fd);
void ws_eventfd_put(void *eventfd);
void ws_eventfd_signal(void *eventfd);
void *ws_irqfd_create(u32 fd);
void *ws_irqfd_eventfd(void *irqfd);
u32 ws_irqfd_watch(void *irqfd, void *object);
void ws_irqfd_destroy(void *irqfd);
void ws_irqfd_flush(void);

/* Called by Rust: main.c */
int ws_vcpu_fd(u32 number, void *object);
int ws_gic_fd(void *object);
int ws_vm_fd(void *object, void **place);
int ws_device_register(void);
void ws_device_unregister(void);
int ws_vcpu_mmap_page(struct vm_area_struct *area, unsigned long index, void *lowmem);
/* What sets a parameter that can only be read: at load the kernel calls it whatever the file's mode says. */
struct kernel_param;
int ws_read_only(const char *text, const struct kernel_param *parameter);
void ws_log(u32 level, const char *text, unsigned long length);
u32 ws_no_vfp(void);
__noreturn void ws_bug(void);

/* Rust's, called from here. */
int ws_rust_init(void);
void ws_rust_exit(void);
long ws_rust_system_ioctl(u32 command, unsigned long argument);
long ws_rust_vm_ioctl(void *vm, u32 command, unsigned long argument);
long ws_rust_vcpu_ioctl(void *vcpu, u32 command, unsigned long argument);
long ws_rust_device_ioctl(void *device, u32 command, unsigned long argument);
int ws_rust_vcpu_mmap(void *vcpu, struct vm_area_struct *area, unsigned long pages, unsigned long offset);
void ws_rust_release(u32 kind, void *object);
int ws_rust_provoke(u32 kind);
void ws_rust_set_short_exit_traps(u32 on);
u32 ws_rust_short_exit_traps(void);
void ws_rust_hyp_answers(u32 on);
int ws_rust_check_hyp_abi(void);
u32 ws_rust_vfp_switches(void);
void ws_rust_set_check_vmids(u32 on);
u32 ws_rust_check_vmids(void);
u32 ws_rust_vmid_roll_overs(void);
void ws_rust_watch(u32 event, u32 on);
const char *ws_rust_statistic_name(u32 statistic);
u64 ws_rust_statistic(void *vm, u32 statistic);
void ws_rust_clear_statistic(void *vm, u32 statistic);
int ws_rust_cpu_comes(void);
void ws_rust_cpu_goes(void);
void ws_rust_cpu_sleeps(void);
void ws_rust_cpu_wakes(void);
void ws_rust_system_ends(void);
int ws_rust_mm_invalidate_begin(void *vm, unsigned long start, unsigned long end, u32 may_block);
void ws_rust_mm_invalidate_end(void *vm, unsigned long start, unsigned long end);
u32 ws_rust_mm_clear_young(void *vm, unsigned long start, unsigned long end, u32 flush);
u32 ws_rust_mm_test_young(void *vm, unsigned long address);
void ws_rust_mm_release(void *vm);
void ws_rust_irqfd_event(void *object);
void ws_rust_irqfd_closed(void *object);

/* Between the files of this folder: fail_allocation.c */
bool ws_allocation_fails(void);

/* Between the files of this folder: events.c */
int ws_events_init(void);
void ws_events_exit(void);

/* Kinds of descriptors. */
#define WS_FD_VM 0
#define WS_FD_VCPU 1
#define WS_FD_DEVICE 2

#endif
