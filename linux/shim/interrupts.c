// SPDX-License-Identifier: GPL-2.0-only
/*
 * The GICv2's virtual interface and the virtual timer's interrupt, found in the device tree.
 */
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/irq.h>
#include <linux/of.h>
#include <linux/of_address.h>
#include <linux/of_irq.h>
#include <linux/percpu.h>
#include <asm/arch_timer.h>

#include "shim.h"

static const struct of_device_id gic_ids[] = {
	{ .compatible = "arm,gic-400" },
	{ .compatible = "arm,cortex-a15-gic" },
	{ .compatible = "arm,cortex-a7-gic" },
	{ .compatible = "arm,cortex-a12-gic" },
	{ .compatible = "arm,cortex-a17-gic" },
	{ .compatible = "arm,eb11mp-gic" },
	{}
};

static const struct of_device_id timer_ids[] = {
	{ .compatible = "arm,armv7-timer" },
	{ .compatible = "arm,armv8-timer" },
	{}
};

/* The regions of the GICv2 binding: distributor, CPU interface, GICH, GICV. */
int ws_gic_find(u64 *gich_phys, u64 *gich_bytes, u64 *gicv_phys, u64 *gicv_bytes, u64 *gicc_bytes)
{
	struct device_node *node;
	struct resource region;
	int error = -ENODEV;

	for_each_matching_node(node, gic_ids) {
		if (of_address_to_resource(node, 1, &region))
			continue;
		*gicc_bytes = resource_size(&region);
		if (of_address_to_resource(node, 2, &region))
			continue;
		*gich_phys = region.start;
		*gich_bytes = resource_size(&region);
		if (of_address_to_resource(node, 3, &region))
			continue;
		*gicv_phys = region.start;
		*gicv_bytes = resource_size(&region);
		error = 0;
		of_node_put(node);
		break;
	}
	return error;
}

void *ws_io_map(u64 phys, u64 bytes)
{
	return (void __force *)ioremap(phys, bytes);
}

void ws_io_unmap(void *mapped)
{
	iounmap((void __iomem __force *)mapped);
}

static int timer_irq;
static int maintenance_irq;
static int __percpu *timer_cookie;
static bool forwarded;

/*
 * Neither interrupt has work to do: that it came made the guest leave, and what it means is read from the registers at each exit.
 * Taken by the host, the timer's is the guest's no longer: its line is off while the host runs.
 */
static irqreturn_t interrupt_seen(int irq, void *cookie)
{
	return IRQ_HANDLED;
}

static int find_timer_irq(void)
{
	struct device_node *node = of_find_matching_node(NULL, timer_ids);
	int irq;

	if (!node)
		return -ENODEV;
	irq = of_irq_get_byname(node, "virt");
	if (irq <= 0)
		irq = of_irq_get(node, 2); /* secure, non-secure, virtual, hypervisor */
	of_node_put(node);
	return irq > 0 ? irq : -ENODEV;
}

static int find_maintenance_irq(void)
{
	struct device_node *node;
	int irq = -ENODEV;

	for_each_matching_node(node, gic_ids) {
		irq = of_irq_get(node, 0);
		if (irq > 0) {
			of_node_put(node);
			break;
		}
	}
	return irq > 0 ? irq : -ENODEV;
}

int ws_interrupts_register(u32 *timer_hwirq, u32 *timer_forwarded, u32 *timer_rate)
{
	int error;

	timer_irq = find_timer_irq();
	maintenance_irq = find_maintenance_irq();
	if (timer_irq < 0 || maintenance_irq < 0)
		return -ENODEV;
	timer_cookie = alloc_percpu(int);
	if (!timer_cookie)
		return -ENOMEM;
	error = request_percpu_irq(timer_irq, interrupt_seen, "kvm guest vtimer", timer_cookie);
	if (error)
		goto no_timer;
	error = request_percpu_irq(maintenance_irq, interrupt_seen, "kvm vgic maintenance", timer_cookie);
	if (error)
		goto no_maintenance;
	forwarded = !irq_set_vcpu_affinity(timer_irq, timer_cookie);
	*timer_hwirq = irq_get_irq_data(timer_irq)->hwirq;
	*timer_forwarded = forwarded;
	*timer_rate = arch_timer_get_cntfrq();
	return 0;
no_maintenance:
	free_percpu_irq(timer_irq, timer_cookie);
no_timer:
	free_percpu(timer_cookie);
	return error;
}

void ws_interrupts_unregister(void)
{
	if (forwarded)
		irq_set_vcpu_affinity(timer_irq, NULL);
	free_percpu_irq(maintenance_irq, timer_cookie);
	free_percpu_irq(timer_irq, timer_cookie);
	free_percpu(timer_cookie);
}

void ws_interrupts_enable_here(void)
{
	enable_percpu_irq(timer_irq, irq_get_trigger_type(timer_irq));
	enable_percpu_irq(maintenance_irq, irq_get_trigger_type(maintenance_irq));
}

void ws_interrupts_disable_here(void)
{
	disable_percpu_irq(maintenance_irq);
	disable_percpu_irq(timer_irq);
}

/* Whether the physical GIC holds the timer's interrupt for active on this CPU: then it does not come again. */
int ws_timer_active(u32 active)
{
	return irq_set_irqchip_state(timer_irq, IRQCHIP_STATE_ACTIVE, active);
}

/* Without split EOI: off while the guest has it in flight. */
void ws_timer_masked(u32 masked)
{
	if (masked)
		disable_percpu_irq(timer_irq);
	else
		enable_percpu_irq(timer_irq, irq_get_trigger_type(timer_irq));
}
