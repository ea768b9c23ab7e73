// SPDX-License-Identifier: GPL-2.0-only
//! All that KVM has of a machine beside its memory, to be read of one that stands still and given to a fresh one.
//!
//! The GIC's state is kept as the writes that bring a fresh GIC into it, in their order: bits that have a register to set and one to
//! clear are cleared first; which interrupts are edge-triggered, and where they go, comes before which are pending and active; and the
//! CPU interfaces come last.
//!
//! Source: Documentation/virt/kvm/devices/arm-vgic.rst of Linux 5.6; ARM IHI 0048B, 4.3 and 4.4.

use uapi::{MpState, VcpuEvents};

use super::{Gic, Vcpu, failed};
use crate::error::Error;
use crate::layout::GIC_INTERRUPTS;

/// A vCPU's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuState {
    /// Ids and values, in the order in which they are to be written.
    pub registers: Vec<(u64, u64)>,
    /// `KVM_MP_STATE_…`.
    pub mp_state: u32,
    /// An asynchronous abort is pending.
    pub async_abort: bool,
}

/// A write to a register of the GIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GicWrite {
    /// `KVM_DEV_ARM_VGIC_GRP_…`.
    pub group: u32,
    /// Which register, for which vCPU.
    pub attr: u64,
    /// What is written.
    pub value: u32,
}

impl Vcpu {
    /// Its state. It is not running, and no access of it is under way.
    pub fn state(&self) -> Result<VcpuState, Error> {
        let ids = self.fd.registers().map_err(failed("KVM_GET_REG_LIST"))?;
        let registers = ids.into_iter().map(|id| Ok((id, self.fd.any_register(id)?))).collect::<std::io::Result<_>>();
        let (mut power, mut events) = (MpState::default(), VcpuEvents::default());
        self.fd.read(uapi::KVM_GET_MP_STATE, &mut power).map_err(failed("KVM_GET_MP_STATE"))?;
        self.fd.read(uapi::KVM_GET_VCPU_EVENTS, &mut events).map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        Ok(VcpuState {
            registers: registers.map_err(failed("KVM_GET_ONE_REG"))?,
            mp_state: power.mp_state,
            async_abort: events.serror_pending != 0,
        })
    }

    /// Gives it a state.
    pub fn set_state(&self, state: &VcpuState) -> Result<(), Error> {
        for (id, value) in &state.registers {
            self.fd.set_any_register(*id, *value).map_err(failed("KVM_SET_ONE_REG"))?;
        }
        let events = VcpuEvents { serror_pending: state.async_abort.into(), ..Default::default() };
        self.fd.write(uapi::KVM_SET_VCPU_EVENTS, &events).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        let power = MpState { mp_state: state.mp_state };
        self.fd.write(uapi::KVM_SET_MP_STATE, &power).map_err(failed("KVM_SET_MP_STATE"))
    }
}

/// An array of the distributor's registers, and how it is saved.
struct Array {
    offset: u32,
    /// Fields in a word.
    fields: u32,
    /// Where the register stands that clears what this one sets.
    clears: Option<u32>,
}

const ARRAYS: [Array; 7] = [
    Array { offset: 0x080, fields: 32, clears: None }, // GICD_IGROUPR
    Array { offset: 0x100, fields: 32, clears: Some(0x180) }, // GICD_ISENABLER, ICENABLER
    Array { offset: 0x800, fields: 4, clears: None },  // GICD_ITARGETSR
    Array { offset: 0xc00, fields: 16, clears: None }, // GICD_ICFGR
    Array { offset: PENDING, fields: 32, clears: Some(0x280) }, // GICD_ISPENDR, ICPENDR
    Array { offset: 0x300, fields: 32, clears: Some(0x380) }, // GICD_ISACTIVER, ICACTIVER
    Array { offset: 0x400, fields: 4, clears: None },  // GICD_IPRIORITYR
];
/// Interrupts that each vCPU has of its own.
const PRIVATE: u32 = 32;
/// GICD_ISPENDR of a vCPU's own interrupts.
const PENDING: u32 = 0x200;
/// The timers' interrupts there, 27 and 30. KVM drives their lines by what the timers' registers say. A line that is high reads as pending,
/// but what is written there stays pending, whatever becomes of the line: so it is left to KVM.
const TIMERS: u32 = 1 << 27 | 1 << 30;
/// GICD_SPENDSGIR, CPENDSGIR.
const SGIS: Array = Array { offset: 0xf20, fields: 4, clears: Some(0xf10) };
/// GICD_IIDR, which lets groups be written; GICD_CTLR.
const SINGLE: [u32; 2] = [0x008, 0x000];
/// GICC_CTLR, PMR, BPR, ABPR, APR0.
const INTERFACE: [u32; 5] = [0x00, 0x04, 0x08, 0x1c, 0xd0];

impl Gic {
    /// Its state, in a machine of so many vCPUs, none of which runs.
    pub fn state(&self, vcpus: u8) -> Result<Vec<GicWrite>, Error> {
        let (dist, cpu) = (uapi::KVM_DEV_ARM_VGIC_GRP_DIST_REGS, uapi::KVM_DEV_ARM_VGIC_GRP_CPU_REGS);
        let mut writes = Vec::new();
        let mut save = |group, vcpu, offset, clears: Option<u32>| {
            let attr = uapi::vgic_register_attr(vcpu, offset);
            let mut value =
                self.device.attribute(group, attr).map_err(failed("KVM_GET_DEVICE_ATTR of the GIC"))? as u32;
            if (group, offset) == (dist, PENDING) {
                value &= !TIMERS;
            }
            if let Some(clears) = clears {
                writes.push(GicWrite { group, attr: uapi::vgic_register_attr(vcpu, clears), value: u32::MAX });
            }
            writes.push(GicWrite { group, attr, value });
            Ok::<_, Error>(())
        };
        for offset in SINGLE {
            save(dist, 0, offset, None)?;
        }
        for Array { offset, fields, clears } in ARRAYS {
            for word in 0..GIC_INTERRUPTS / fields {
                for vcpu in 0..if word * fields < PRIVATE { vcpus } else { 1 } {
                    save(dist, vcpu, offset + word * 4, clears.map(|clears| clears + word * 4))?;
                }
            }
        }
        for vcpu in 0..vcpus {
            for word in 0..16 / SGIS.fields {
                save(dist, vcpu, SGIS.offset + word * 4, SGIS.clears.map(|clears| clears + word * 4))?;
            }
            for offset in INTERFACE {
                save(cpu, vcpu, offset, None)?;
            }
        }
        Ok(writes)
    }

    /// Gives it a state.
    pub fn set_state(&self, writes: &[GicWrite]) -> Result<(), Error> {
        for GicWrite { group, attr, value } in writes {
            self.device
                .set_attribute(*group, *attr, Some(value))
                .map_err(failed("KVM_SET_DEVICE_ATTR of the GIC's registers"))?;
        }
        Ok(())
    }
}
