// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory: the kernel's heap and pages, copies from and to the calling process, its pages for stage 2, and the notifier that
 * says when they change.
 */
#include <linux/atomic.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/moduleparam.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/io.h>

#include "shim.h"

/* Blocks of the heap that were not given back: of a VM that is gone there is none. (Of pages, Hyp mode's tables keep some.) */
static atomic_t heap_blocks;

void *ws_alloc(unsigned long bytes)
{
	void *memory = ws_allocation_fails() ? NULL : kvzalloc(bytes, GFP_KERNEL_ACCOUNT);

	if (memory)
		atomic_inc(&heap_blocks);
	return memory;
}

void ws_free(void *memory)
{
	atomic_dec(&heap_blocks);
	kvfree(memory);
}

/* Lowmem, zeroed, in the linear map; aligned to its size, each page to be freed on its own. */
void *ws_pages(u32 order)
{
	struct page *pages = ws_allocation_fails() ? NULL : alloc_pages(GFP_KERNEL_ACCOUNT | __GFP_ZERO, order);

	if (!pages)
		return NULL;
	split_page(pages, order);
	return page_address(pages);
}

/*
 * A zeroed page that a process may map. Not accounted: before 5.11 an accounted page has a type, and vm_insert_page() refuses it.
 */
void *ws_user_page(void)
{
	return ws_allocation_fails() ? NULL : (void *)get_zeroed_page(GFP_KERNEL);
}

void ws_free_page(void *memory)
{
	free_page((unsigned long)memory);
}

static int get_heap_blocks(char *text, const struct kernel_param *parameter)
{
	return sprintf(text, "%d\n", atomic_read(&heap_blocks));
}

static const struct kernel_param_ops heap_blocks_operations = { .set = ws_read_only, .get = get_heap_blocks };

module_param_cb(heap_blocks, &heap_blocks_operations, NULL, 0400);
MODULE_PARM_DESC(heap_blocks, "how many blocks of the kernel's heap the module has (read only; for tests)");

u64 ws_phys_of(const void *lowmem)
{
	return virt_to_phys((void *)lowmem);
}

void *ws_virt_of(u64 phys)
{
	return phys_to_virt(phys);
}

int ws_copy_from_user(void *to, unsigned long from, unsigned long bytes)
{
	return copy_from_user(to, (const void __user *)from, bytes) ? -EFAULT : 0;
}

int ws_copy_to_user(unsigned long to, const void *from, unsigned long bytes)
{
	return copy_to_user((void __user *)to, from, bytes) ? -EFAULT : 0;
}

unsigned long ws_user_limit(void)
{
	return TASK_SIZE;
}

/*
 * Whether the process maps the 2 MiB around the address as one block. Interrupts are off while its tables are walked, which keeps
 * them from being freed; that the answer still holds when it is used is for the caller's notifier sequence to say.
 */
static u32 mapped_as_block(unsigned long address)
{
	u32 block = 0;
#ifdef CONFIG_ARM_LPAE
	unsigned long flags;
	pgd_t *pgd;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t pmd;

	local_irq_save(flags);
	pgd = pgd_offset(current->mm, address);
	if (!pgd_none(*pgd)) {
		p4d = p4d_offset(pgd, address);
		pud = pud_offset(p4d, address);
		if (!pud_none(*pud)) {
			pmd = READ_ONCE(*pmd_offset(pud, address));
			block = (pmd_val(pmd) & PMD_TYPE_MASK) == PMD_TYPE_SECT;
		}
	}
	local_irq_restore(flags);
#endif
	return block;
}

int ws_resolve(unsigned long address, u32 write, u64 *phys, u32 *writable, u32 *block)
{
	struct page *page;
	long got;

	/* Try to get it writable at once: a later write then needs no second fault. Without a fault-in, it costs nothing. */
	*writable = 1;
	got = write ? get_user_pages_fast(address, 1, FOLL_WRITE, &page)
		    : get_user_pages_fast_only(address, 1, FOLL_WRITE, &page);
	if (got != 1 && !write) {
		*writable = 0;
		got = get_user_pages_fast(address, 1, 0, &page);
	}
	if (got < 0)
		return got;
	if (got != 1)
		return -EFAULT;
	*phys = page_to_phys(page);
	*block = mapped_as_block(address);
	/* The guest may write to it from here on: the notifier, not a reference, says when that ends. */
	if (*writable)
		set_page_dirty_lock(page);
	put_page(page);
	return 0;
}

/* Lowmem is mapped already: a guest's fresh block is 512 pages, each of which a mapping costs as much as its maintenance. */
void *ws_map_page(u64 phys)
{
	struct page *page = pfn_to_page(phys >> PAGE_SHIFT);

	return PageHighMem(page) ? kmap_atomic(page) : page_address(page);
}

void ws_unmap_page(void *mapped)
{
	if (mapped >= high_memory)
		kunmap_atomic(mapped);
}

struct mm_watch {
	struct mmu_notifier notifier;
	struct mm_struct *mm;
	void *vm;
};

static int invalidate_begin(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct mm_watch *watch = container_of(notifier, struct mm_watch, notifier);

	return ws_rust_mm_invalidate_begin(watch->vm, range->start, range->end, mmu_notifier_range_blockable(range));
}

static void invalidate_end(struct mmu_notifier *notifier, const struct mmu_notifier_range *range)
{
	struct mm_watch *watch = container_of(notifier, struct mm_watch, notifier);

	ws_rust_mm_invalidate_end(watch->vm, range->start, range->end);
}

static void mm_release(struct mmu_notifier *notifier, struct mm_struct *mm)
{
	struct mm_watch *watch = container_of(notifier, struct mm_watch, notifier);

	ws_rust_mm_release(watch->vm);
}

/* int, and bool in newer kernels. */
typedef typeof(((struct mmu_notifier_ops *)NULL)->test_young(NULL, NULL, 0)) young_t;

static young_t clear_flush_young(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start,
				 unsigned long end)
{
	struct mm_watch *watch = container_of(notifier, struct mm_watch, notifier);

	return ws_rust_mm_clear_young(watch->vm, start, end, 1) != 0;
}

static young_t clear_young(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long start, unsigned long end)
{
	struct mm_watch *watch = container_of(notifier, struct mm_watch, notifier);

	return ws_rust_mm_clear_young(watch->vm, start, end, 0) != 0;
}

static young_t test_young(struct mmu_notifier *notifier, struct mm_struct *mm, unsigned long address)
{
	struct mm_watch *watch = container_of(notifier, struct mm_watch, notifier);

	return ws_rust_mm_test_young(watch->vm, address) != 0;
}

static const struct mmu_notifier_ops watch_operations = {
	.clear_flush_young = clear_flush_young,
	.clear_young = clear_young,
	.test_young = test_young,
	.invalidate_range_start = invalidate_begin,
	.invalidate_range_end = invalidate_end,
	.release = mm_release,
};

/* Watches the calling process's memory for a VM. Returns the watch or an ERR_PTR. */
void *ws_mm_watch(void *vm)
{
	struct mm_watch *watch = ws_alloc(sizeof(*watch));
	int error;

	if (!watch)
		return ERR_PTR(-ENOMEM);
	watch->notifier.ops = &watch_operations;
	watch->mm = current->mm;
	watch->vm = vm;
	/* It may allocate, too. */
	error = ws_allocation_fails() ? -ENOMEM : mmu_notifier_register(&watch->notifier, watch->mm);
	if (error) {
		ws_free(watch);
		return ERR_PTR(error);
	}
	return watch;
}

void ws_mm_unwatch(void *memory)
{
	struct mm_watch *watch = memory;

	mmu_notifier_unregister(&watch->notifier, watch->mm);
	ws_free(watch);
}

u32 ws_mm_is_current(const void *memory)
{
	const struct mm_watch *watch = memory;

	return watch->mm == current->mm;
}
