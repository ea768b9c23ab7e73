// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings of bare page frames (VM_PFNMAP, VM_IO): what a driver maps of its device into a process. No reference can be had to such
 * pages, and get_user_pages refuses them; the process's page table is read instead. As for all memory of a guest, the notifier says when
 * the answer holds no longer.
 */
#include <linux/highmem.h>
#include <linux/ioport.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched.h>
#include <linux/version.h>
#include <asm/pgtable.h>

#include "shim.h"

/* What the process's page table has at the address, with mmap_lock held. */
static int follow(struct vm_area_struct *area, unsigned long address, unsigned long *pfn, u32 *writable)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0)
	struct follow_pfnmap_args args = { .vma = area, .address = address };
	int error = follow_pfnmap_start(&args);

	if (error)
		return error;
	*pfn = args.pfn;
	*writable = args.writable;
	follow_pfnmap_end(&args);
#else
	spinlock_t *lock;
	pte_t *pte;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
	int error = follow_pte(area, address, &pte, &lock);
#else
	int error = follow_pte(area->vm_mm, address, &pte, &lock);
#endif

	if (error)
		return error;
	*pfn = pte_pfn(*pte);
	*writable = pte_write(*pte);
	pte_unmap_unlock(pte, lock);
#endif
	return 0;
}

static int resolve(unsigned long address, u32 write, unsigned long *pfn, u32 *writable)
{
	unsigned long rights = write ? VM_READ | VM_WRITE : VM_READ;
	struct vm_area_struct *area = find_vma(current->mm, address);
	int error;

	if (!area || address < area->vm_start || !(area->vm_flags & (VM_IO | VM_PFNMAP)))
		return -EFAULT;
	if ((area->vm_flags & rights) != rights)
		return -EFAULT;
	error = follow(area, address, pfn, writable);
	if (!error && (*writable || !write))
		return 0;
	/* The driver maps on demand. Asked so, the kernel keeps mmap_lock, so that `area` stays. */
	error = fixup_user_fault(current->mm, address, write ? FAULT_FLAG_WRITE : 0, NULL);
	if (!error)
		error = follow(area, address, pfn, writable);
	if (error == -EINVAL || (!error && write && !*writable))
		error = -EFAULT;
	return error;
}

int ws_resolve_pfn_map(unsigned long address, u32 write, u64 *phys, u32 *writable, u32 *device)
{
	unsigned long pfn;
	int error;

	if (mmap_read_lock_killable(current->mm))
		return -EINTR;
	error = resolve(address, write, &pfn, writable);
	mmap_read_unlock(current->mm);
	if (error)
		return error;
	*phys = (u64)pfn << PAGE_SHIFT;
	*device = !page_is_ram(pfn);
	return 0;
}
