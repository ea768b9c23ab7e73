// SPDX-License-Identifier: GPL-2.0-only
/*
 * The GICv2's virtual interface, if there is one, and the virtual timer's interrupt, found in the device tree.
 */
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/irq.h>
#include <linux/irqchip/arm-gic.h>
#include <linux/moduleparam.h>
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

static bool no_gic;

module_param(no_gic, bool, 0444);
MODULE_PARM_DESC(no_gic, "does without the GIC's virtual interface, as on boards that have none: processes emulate their VMs' interrupt controllers");

/* The regions of the GICv2 binding. */
enum { DISTRIBUTOR, CPU_INTERFACE, GICH, GICV, REGIONS };

/* The GICv2 that has them all, to be put, or NULL. */
static struct device_node *find_gic(struct resource regions[REGIONS])
{
	struct device_node *node;

	for_each_matching_node(node, gic_ids) {
		int region = 0;

		while (region < REGIONS && !of_address_to_resource(node, region, &regions[region]))
			region++;
		if (region == REGIONS)
			break;
	}
	return node;
}

/*
 * ENODEV: there is none that guests could use. EOPNOTSUPP: there is a GICv3 instead, whose CPU interface is system registers that a guest
 * could not be kept from.
 */
int ws_gic_find(u64 *gich_phys, u64 *gich_bytes, u64 *gicv_phys, u64 *gicv_bytes, u64 *gicc_bytes)
{
	struct resource regions[REGIONS];
	struct device_node *node;

	for_each_compatible_node(node, NULL, "arm,gic-v3") {
		if (!of_device_is_available(node))
			continue;
		of_node_put(node);
		return -EOPNOTSUPP;
	}
	node = no_gic ? NULL : find_gic(regions);
	if (!node)
		return -ENODEV;
	/* Of no use without its maintenance interrupt. */
	if (of_irq_get(node, 0) <= 0) {
		of_node_put(node);
		return -ENODEV;
	}
	*gicc_bytes = resource_size(&regions[CPU_INTERFACE]);
	*gich_phys = regions[GICH].start;
	*gich_bytes = resource_size(&regions[GICH]);
	*gicv_phys = regions[GICV].start;
	*gicv_bytes = resource_size(&regions[GICV]);
	of_node_put(node);
	return 0;
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
/* Not asked for where the GIC has no virtual interface: 0. */
static int maintenance_irq;
static bool forwarded;

/* The distributor, or NULL, and the timer's bit in its registers for private interrupts, of which each CPU has its own. */
static void __iomem *distributor;
static u32 timer_bit;

/*
 * Whether the timer's interrupt is enabled for us on this CPU; and if so, whether the physical GIC has it active, or masked, as far as we
 * have seen to it.
 */
struct timer_state {
	bool here;
	bool active;
	bool masked;
};

static struct timer_state __percpu *timer_states;

/*
 * The interrupt made the guest leave; what it means is read from the registers at each exit. Taken by the host, a forwarded one
 * stays active until a guest deactivates it, or we do.
 */
static irqreturn_t timer_seen(int irq, void *cookie)
{
	struct timer_state *state = cookie;

	state->active = forwarded;
	return IRQ_HANDLED;
}

static irqreturn_t maintenance_seen(int irq, void *cookie)
{
	return IRQ_HANDLED;
}

/* Where firmware left CNTFRQ unset, the device tree says how fast the counter runs. */
static int find_timer_irq(u32 *rate)
{
	struct device_node *node = of_find_matching_node(NULL, timer_ids);
	int irq;

	if (!node)
		return -ENODEV;
	if (of_property_read_u32(node, "clock-frequency", rate))
		*rate = arch_timer_get_cntfrq();
	irq = of_irq_get_byname(node, "virt");
	if (irq <= 0)
		irq = of_irq_get(node, 2); /* secure, non-secure, virtual, hypervisor */
	of_node_put(node);
	return irq > 0 ? irq : -ENODEV;
}

/* gicd: where the distributor is. */
static int find_maintenance_irq(struct resource *gicd)
{
	struct resource regions[REGIONS];
	struct device_node *node = find_gic(regions);
	int irq;

	if (!node)
		return -ENODEV;
	*gicd = regions[DISTRIBUTOR];
	irq = of_irq_get(node, 0);
	of_node_put(node);
	return irq > 0 ? irq : -ENODEV;
}

/*
 * with_gic: the GIC has a virtual interface. Without one the timer's interrupt may be any controller's. splits_eoi: the CPU interface has
 * the page with which a guest's deactivation works apart from the host's priority drop.
 */
int ws_interrupts_register(u32 with_gic, u32 splits_eoi, u32 *timer_hwirq, u32 *timer_forwarded, u32 *timer_rate)
{
	struct resource gicd;
	int error;

	timer_irq = find_timer_irq(timer_rate);
	maintenance_irq = with_gic ? find_maintenance_irq(&gicd) : 0;
	if (timer_irq < 0 || maintenance_irq < 0 || !*timer_rate)
		return -ENODEV;
	timer_states = ws_allocation_fails() ? NULL : alloc_percpu(struct timer_state);
	if (!timer_states)
		return -ENOMEM;
	error = request_percpu_irq(timer_irq, timer_seen, "kvm guest vtimer", timer_states);
	if (error)
		goto no_timer;
	*timer_hwirq = irq_get_irq_data(timer_irq)->hwirq;
	*timer_forwarded = forwarded = false;
	if (!with_gic)
		return 0;
	distributor = ws_allocation_fails() ? NULL : ioremap(gicd.start, resource_size(&gicd));
	error = -ENOMEM;
	if (!distributor)
		goto no_distributor;
	error = request_percpu_irq(maintenance_irq, maintenance_seen, "kvm vgic maintenance", timer_states);
	if (error)
		goto no_maintenance;
	/* Another controller's numbers say nothing here. */
	timer_bit = *timer_hwirq >= 16 && *timer_hwirq < 32 ? BIT(*timer_hwirq) : 0;
	forwarded = splits_eoi && *timer_hwirq < 32 && !irq_set_vcpu_affinity(timer_irq, timer_states);
	*timer_forwarded = forwarded;
	return 0;
no_maintenance:
	iounmap(distributor);
no_distributor:
	free_percpu_irq(timer_irq, timer_states);
no_timer:
	free_percpu(timer_states);
	return error;
}

void ws_interrupts_unregister(void)
{
	if (forwarded)
		irq_set_vcpu_affinity(timer_irq, NULL);
	if (distributor) {
		free_percpu_irq(maintenance_irq, timer_states);
		iounmap(distributor);
	}
	free_percpu_irq(timer_irq, timer_states);
	free_percpu(timer_states);
}

/*
 * On this CPU, which may have come back, or never went: an offline can fail half-way. A vCPU's thread may have been here all the while. So
 * what we keep of the timer's interrupt is made true, whatever it was, while no such thread can change it.
 */
void ws_interrupts_enable_here(void)
{
	unsigned long flags;

	local_irq_save(flags);
	if (distributor)
		writel_relaxed(timer_bit, distributor + GIC_DIST_ACTIVE_CLEAR);
	*this_cpu_ptr(timer_states) = (struct timer_state){ .here = true };
	enable_percpu_irq(timer_irq, irq_get_trigger_type(timer_irq));
	if (distributor)
		enable_percpu_irq(maintenance_irq, irq_get_trigger_type(maintenance_irq));
	local_irq_restore(flags);
}

/*
 * Also leaves the timer's interrupt as it was found: inactive, unmasked. Threads that may still run vCPUs here (before Linux 5.11, as far as
 * they get without Hyp mode) leave it so.
 */
void ws_interrupts_disable_here(void)
{
	unsigned long flags;

	local_irq_save(flags);
	ws_timer_active(0);
	ws_timer_masked(0);
	this_cpu_ptr(timer_states)->here = false;
	if (distributor)
		disable_percpu_irq(maintenance_irq);
	disable_percpu_irq(timer_irq);
	local_irq_restore(flags);
}

/*
 * Makes the physical GIC hold the timer's interrupt for active on this CPU, so that it does not come again, or not. Its driver would
 * write the same (irq_set_irqchip_state), behind two locks and a search for an interrupt that is ours. What is written changes this one
 * bit of this CPU's registers and no other, so there is nobody to be locked out.
 */
void ws_timer_active(u32 active)
{
	struct timer_state *state = this_cpu_ptr(timer_states);

	if (state->active == active || !state->here)
		return;
	writel_relaxed(timer_bit, distributor + (active ? GIC_DIST_ACTIVE_SET : GIC_DIST_ACTIVE_CLEAR));
	state->active = active;
}

/* A guest deactivated it. */
void ws_timer_ended(void)
{
	this_cpu_ptr(timer_states)->active = false;
}

/* Without split EOI: off on this CPU while the guest has it in flight. */
void ws_timer_masked(u32 masked)
{
	struct timer_state *state = this_cpu_ptr(timer_states);

	if (state->masked == masked || !state->here)
		return;
	if (masked)
		disable_percpu_irq(timer_irq);
	else
		enable_percpu_irq(timer_irq, irq_get_trigger_type(timer_irq));
	state->masked = masked;
}
