// SPDX-License-Identifier: GPL-2.0-only
//! Arguments of KVM's calls, built as a client builds them, of values that often fit together, and spoiled.
//!
//! Fields that are addresses of the process are drawn from the arena, where the kernel may read and write what it likes, or from where
//! nothing is, and are never spoiled.

use fastrand::Rng;
use uapi::*;

use crate::arena::{Arena, MOAT_END, PAGE};
use crate::descriptors::{Descriptors, Kind};
use crate::image::{DEVICE, GICC, GICD, RAM, READ_ONLY};
use crate::values::Values;

/// Bytes that an argument has room for: more than any number can announce.
pub const DESK: usize = 16384;

/// What a call's argument is made of.
pub struct Maker<'a> {
    /// Choices.
    pub random: &'a mut Rng,
    /// Where addresses come from.
    pub arena: &'a Arena,
    /// Where descriptors within arguments come from.
    pub descriptors: &'a Descriptors,
    /// The bytes.
    pub desk: &'a mut [u64; DESK / 8],
    /// How many.
    pub used: usize,
    /// Where in them the process's address is, if there is one: eight bytes that stay.
    pub address_at: Option<usize>,
}

/// A call's argument.
pub enum Argument {
    /// A number.
    Value(usize),
    /// What lies on the desk.
    Structure,
}

impl Maker<'_> {
    /// Puts a structure on the desk, behind what is there.
    fn put<T: Copy>(&mut self, value: T) -> Argument {
        let bytes = size_of::<T>();
        assert!(self.used + bytes <= DESK && align_of::<T>() <= 8);
        // SAFETY: room for it (just checked); the types are made of integers, without padding (asserted in `uapi`), and the place need not be aligned.
        unsafe { self.desk.as_mut_ptr().cast::<u8>().add(self.used).cast::<T>().write_unaligned(value) };
        self.used += bytes;
        Argument::Structure
    }

    /// Puts one on the desk whose address field, at this offset, is the process's.
    fn put_with_address<T: Copy>(&mut self, value: T, address_at: usize) -> Argument {
        self.address_at = Some(self.used + address_at);
        self.put(value)
    }

    /// An address for the kernel to read or write at.
    fn address(&mut self) -> u64 {
        let address = match self.random.u32(..16) {
            0 => nowhere(self.random),
            _ => self.arena.address(self.random) as u64,
        };
        // C extends a pointer's sign, or not; the upper half says nothing.
        if self.random.one_in(16) { address | self.random.u64(..) << 32 } else { address }
    }

    /// Replaces a field by something else, but for the address.
    pub fn spoil(&mut self) {
        let field = self.random.of(&[4, 4, 8]);
        if self.used < field {
            return;
        }
        let at = self.random.usize(..=(self.used - field) / 4) * 4;
        let apart = |address: usize| at + field <= address || at >= address + 8;
        if self.address_at.is_none_or(apart) {
            let value = match self.random.u32(..3) {
                0 => self.read(at) ^ 1 << self.random.u32(..32),
                _ => self.random.value(),
            };
            self.write(at, value as u32);
            if field == 8 {
                self.write(at + 4, (value >> 32) as u32);
            }
        }
    }

    fn read(&self, at: usize) -> u64 {
        self.desk[at / 8] >> (at % 8 * 8) & 0xffff_ffff
    }

    fn write(&mut self, at: usize, value: u32) {
        let shift = at % 8 * 8;
        self.desk[at / 8] = self.desk[at / 8] & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    /// Cuts a slot that is there to be refused short if it would not be: it must not meet memory that this process lives on.
    pub fn tame_region(&mut self) {
        let (size, address) = (self.desk[2], self.desk[3]);
        if address < MOAT_END as u64 && address.checked_add(size).is_some_and(|end| end < 1 << 32) {
            let most = MOAT_END as u64 - address;
            self.desk[2] = size.min(most);
        }
    }

    /// A guest physical address that a slot, a device or an access may be at.
    fn guest_address(&mut self) -> u64 {
        let page = PAGE as u64;
        match self.random.u32(..10) {
            0..=3 => u64::from(RAM) + self.random.u64(..16) * page,
            4 => u64::from(READ_ONLY),
            5 => self.random.of(&[0, 0xffff_0000, 0xffff_f000, 0x1_0000_0000]),
            6 => u64::from(self.random.of(&[GICD, GICC, GICC + 0x1000, DEVICE])),
            7 => (1u64 << 40).wrapping_sub(self.random.u64(..3) * page),
            8 => self.random.value() & !(page - 1),
            _ => u64::from(DEVICE) + self.random.u64(..32) * 4,
        }
    }

    fn descriptor(&mut self, kind: Kind) -> u32 {
        let fd = match self.random.u32(..8) {
            0 => self.descriptors.any(self.random),
            _ => self.descriptors.get(kind, self.random),
        };
        fd as u32
    }
}

/// Puts a value into the middle of the desk, behind any structure, and says where.
pub fn park(desk: &mut [u64; DESK / 8], value: u64) -> u64 {
    let place = &mut desk[DESK / 16];
    *place = value;
    std::ptr::from_mut(place) as usize as u64
}

/// An address of the process where nothing is: not its, or the kernel's, or one that wraps.
pub fn nowhere(random: &mut Rng) -> u64 {
    let kernel = random.of(&[0xbf00_0000, 0xc000_0000, 0xfe00_0000, 0xff00_4000, 0xffff_0000]) + random.u64(..0x1000);
    random.of(&[0, 1, 8, 0xffff_f000, 0xffff_ffff, 0xffff_fffc, MOAT_END as u64 - 4, kernel])
}

pub fn nothing(_: &mut Maker) -> Argument {
    Argument::Value(0)
}

pub fn small(maker: &mut Maker) -> Argument {
    Argument::Value(maker.random.usize(..8))
}

pub fn capability(maker: &mut Maker) -> Argument {
    Argument::Value(maker.random.usize(..256))
}

/// Any bytes: for calls that Arm refuses.
pub fn anything(maker: &mut Maker) -> Argument {
    let words = maker.random.of(&[1, 2, 3, 19]);
    let word = maker.random.value();
    maker.put([word; 32]);
    maker.used = words * 8;
    Argument::Structure
}

pub fn region(maker: &mut Maker) -> Argument {
    let (mut address, mut size) = maker.arena.pages(maker.random);
    match maker.random.u32(..24) {
        // As long as the address space allows, or longer; at its end, or past it.
        0 => size = maker.random.of(&[0x1000_0000, MOAT_END - address, usize::MAX & !0xfff, 1 << 31]),
        1 => address = nowhere(maker.random) as usize & !0xfff,
        2 | 3 => size = 0,
        _ => {}
    }
    let guest_phys_addr = maker.guest_address() & !0xfff;
    let flags = maker.random.of(&[0, 0, 0, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, 3]);
    let slot = maker.random.of(&[0, 0, 1, 2, 3, 4, 31, 32, 509, 510, 511, 512, 0xffff, 0x1_0000]);
    maker.put_with_address(
        UserspaceMemoryRegion {
            slot,
            flags,
            guest_phys_addr,
            memory_size: size as u64,
            userspace_addr: address as u64,
        },
        24,
    )
}

pub fn irq_level(maker: &mut Maker) -> Argument {
    let vcpu = maker.random.u16(..4);
    let line = match maker.random.u32(..4) {
        0 => IrqLine::Cpu { vcpu, number: maker.random.u16(..3) },
        1 => IrqLine::Ppi { vcpu, number: maker.random.u16(14..34) },
        _ => IrqLine::Spi { number: maker.random.of(&[31, 32, 33, 40, 63, 64, 95, 96, 1019, 1020, 1023, u16::MAX]) },
    };
    let level = maker.random.u32(..2);
    maker.put(IrqLevel { irq: line.encode(), level })
}

pub fn zone(maker: &mut Maker) -> Argument {
    let zone = CoalescedMmioZone {
        addr: maker.guest_address(),
        size: maker.random.of(&[0, 4, 64, 0x1000, 0x2000, u32::MAX]),
        pio: maker.random.of(&[0, 0, 0, 1]),
    };
    maker.put(zone)
}

pub fn routing(maker: &mut Maker) -> Argument {
    let entries = maker.random.of(&[0, 1, 2, 8, 32]);
    let said = maker.random.of(&[entries, entries, entries, entries + 1, 4096, 4097, u32::MAX]);
    maker.put(IrqRouting { nr: said, flags: 0 });
    for _ in 0..entries {
        let gsi = maker.random.of(&[0, 1, 7, 8, 31, 1019, 4095, 4096]);
        let route_type = maker.random.of(&[1, 1, 1, 2, 2, 0, 3]);
        let pin = maker.random.of(&[0, 1, 8, 31, 987, 988, u32::MAX]);
        let route = [maker.random.of(&[0, 0, 0, 1]), pin, maker.random.word(), 0, 0, 0, 0, 0];
        let flags = maker.random.of(&[0, 0, 0, 1]);
        maker.put(IrqRoutingEntry { gsi, route_type, flags, pad: 0, route });
    }
    Argument::Structure
}

pub fn irqfd(maker: &mut Maker) -> Argument {
    let irqfd = Irqfd {
        fd: maker.descriptor(Kind::Event),
        gsi: maker.random.of(&[0, 1, 7, 8, 31, 987, 1019, 4095]),
        flags: maker.random.of(&[0, 0, 0, 1, 1, 2, 3]),
        resamplefd: maker.descriptor(Kind::Event),
        pad: [0; 16],
    };
    maker.put(irqfd)
}

pub fn ioeventfd(maker: &mut Maker) -> Argument {
    // Few places, so that two meet at one.
    let addr =
        if maker.random.one_in(2) { maker.guest_address() } else { u64::from(DEVICE) + maker.random.u64(..4) * 4 };
    let ioeventfd = Ioeventfd {
        datamatch: maker.random.of(&[0, 1, 0x55, u64::MAX]),
        addr,
        len: maker.random.of(&[4, 4, 1, 2, 8, 0, 3, 16]),
        fd: maker.descriptor(Kind::Event) as i32,
        flags: maker.random.of(&[0, 0, 1, 4, 5, 2, 8, 16]),
        pad: [0; 36],
    };
    maker.put(ioeventfd)
}

pub fn msi(maker: &mut Maker) -> Argument {
    let address = maker.guest_address();
    let flags = maker.random.of(&[0, 0, 1]);
    let data = maker.random.word();
    maker.put(Msi {
        address_lo: address as u32,
        address_hi: (address >> 32) as u32,
        data,
        flags,
        devid: 0,
        pad: [0; 12],
    })
}

pub fn enable_cap(maker: &mut Maker) -> Argument {
    let cap = maker.random.of(&[
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        KVM_CAP_ARM_NISV_TO_USER,
        KVM_CAP_ARM_NISV_TO_USER,
        KVM_CAP_ARM_USER_IRQ,
        KVM_CAP_IRQCHIP,
        0xffff,
    ]);
    let argument = maker.random.of(&[0, 0, 1, 1, 2, 3]);
    maker.put(EnableCap::new(cap, argument))
}

/// Which of a GIC's devices and attributes; the addresses lie where the guests look for them, or not.
pub fn device_address(maker: &mut Maker) -> Argument {
    let device = maker.random.of(&[0, 0, 0, 1]);
    let kind = maker.random.of(&[0, 1, 0, 1, 2]);
    let address = match maker.random.u32(..4) {
        0 => maker.guest_address(),
        _ => u64::from(if kind == 0 { GICD } else { GICC }),
    };
    maker.put(DeviceAddr::new(device, kind, address))
}

pub fn blank<const BYTES: usize>(maker: &mut Maker) -> Argument {
    maker.put([0u8; BYTES])
}

pub fn dirty_log(maker: &mut Maker) -> Argument {
    let slot = maker.random.of(&[0, 1, 2, 3, 4, 31, 511, 512]);
    let dirty_bitmap = maker.address();
    maker.put_with_address(DirtyLog { slot, padding1: 0, dirty_bitmap }, 8)
}

pub fn clear_dirty_log(maker: &mut Maker) -> Argument {
    let clear = ClearDirtyLog {
        slot: maker.random.of(&[0, 1, 2, 3, 4, 31, 511, 512]),
        num_pages: maker.random.of(&[64, 16, 1, 0, 128, 1024, u32::MAX, u32::MAX - 63]),
        first_page: maker.random.of(&[0, 0, 64, 63, 1024, u64::MAX - 63, 1 << 32]),
        dirty_bitmap: maker.address(),
    };
    maker.put_with_address(clear, 16)
}

pub fn create_device(maker: &mut Maker) -> Argument {
    let device_type = maker.random.of(&[5, 5, 5, 5, 4, 7, 8, 0]);
    let flags = maker.random.of(&[0, 0, 0, 1]);
    maker.put(CreateDevice { device_type, fd: 0, flags })
}

/// An attribute of a vCPU's timer, or of nothing.
pub fn vcpu_attribute(maker: &mut Maker) -> Argument {
    let group = maker.random.of(&[KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_PMU_V3_CTRL, 2]);
    let attr = maker.random.of(&[KVM_ARM_VCPU_TIMER_IRQ_VTIMER, KVM_ARM_VCPU_TIMER_IRQ_PTIMER, 2]);
    let value = maker.random.of(&[27, 30, 20, 16, 31, 15, 32, u64::MAX]);
    let addr = maker.value_at(value);
    maker.put_with_address(DeviceAttr { flags: 0, group, attr, addr }, 16)
}

/// An attribute of a GIC, or of nothing.
pub fn attribute(maker: &mut Maker) -> Argument {
    let group = maker.random.u32(..9);
    let cpu = maker.random.of(&[0, 0, 1, 3, 7, 8, 255]);
    let register =
        maker.random.of(&[0, 4, 8, 0xc, 0x80, 0x100, 0x17c, 0x200, 0x300, 0x400, 0x800, 0xc00, 0xf10, 0xff4, 0xffc]);
    let offset = register + maker.random.of(&[0, 0, 4, 8, 1]);
    let attr = match group {
        KVM_DEV_ARM_VGIC_GRP_DIST_REGS | KVM_DEV_ARM_VGIC_GRP_CPU_REGS => cpu << 32 | offset,
        _ => maker.random.of(&[0, 0, 1, 1, 2, 3, 4]),
    };
    let any = maker.random.value();
    let value = maker.random.of(&[GICD.into(), GICC.into(), 64, 96, 1024, 27, 30, 1, any]);
    let addr = maker.value_at(value);
    maker.put_with_address(DeviceAttr { flags: 0, group, attr, addr }, 16)
}

impl Maker<'_> {
    /// The address of a value that the kernel reads or replaces: where it stays, or in the arena, where it may go, or any.
    fn value_at(&mut self, value: u64) -> u64 {
        match self.random.u32(..8) {
            0 => self.address(),
            1 | 2 => {
                let (address, offset) = self.arena.place(self.random);
                self.arena.put(offset, &[value as u32, (value >> 32) as u32]);
                address as u64
            }
            _ => park(self.desk, value),
        }
    }
}

/// An id of a register that there is, or that is off by a field.
fn register_id(random: &mut Rng) -> u64 {
    let id = match random.u32(..12) {
        0..=3 => core_reg(random.u16(..core_index::COUNT)),
        4 => core_reg(random.of(&[core_index::PC, core_index::CPSR])),
        5 | 6 => {
            let crn = random.of(&[0, 1, 2, 3, 5, 6, 7, 10, 12, 13, 14]);
            let crm = random.of(&[0, 0, 0, 1, 2, 3, 4]);
            cp15_32(random.of(&[0, 0, 0, 1, 2]), crn, crm, random.u8(..8))
        }
        7 => random.of(&[
            KVM_REG_ARM_TIMER_CTL,
            KVM_REG_ARM_TIMER_CNT,
            KVM_REG_ARM_TIMER_CVAL,
            KVM_REG_ARM_PTIMER_CTL,
            KVM_REG_ARM_PTIMER_CNT,
            KVM_REG_ARM_PTIMER_CVAL,
        ]),
        8 => cp15_64(random.u8(..4), random.of(&[2, 7, 14])),
        9 => ccsidr(random.u8(..8)),
        10 if random.one_in(2) => vfp_double(random.u8(..34)),
        10 => random.of(&[KVM_REG_ARM_VFP_FPSCR, KVM_REG_ARM_VFP_FPEXC, KVM_REG_ARM_VFP_FPSID]),
        _ => random.of(&[
            KVM_REG_ARM_PSCI_VERSION,
            KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_1,
            KVM_REG_ARM_SMCCC_ARCH_WORKAROUND_2,
        ]),
    };
    if random.one_in(16) { id ^ 1 << random.u32(..64) } else { id }
}

pub fn get_register(maker: &mut Maker) -> Argument {
    let id = register_id(maker.random);
    let addr = maker.value_at(0);
    maker.put_with_address(OneReg { id, addr }, 8)
}

pub fn set_register(maker: &mut Maker) -> Argument {
    let id = register_id(maker.random);
    let value = match maker.random.u32(..4) {
        _ if id == core_reg(core_index::PC) => u64::from(RAM) + maker.random.u64(..0x1000) * 4,
        _ if id == core_reg(core_index::CPSR) => {
            maker.random.of(&[0x10, 0x11, 0x12, 0x13, 0x17, 0x1b, 0x1f, 0x1a, 0x16, 0x00, 0x33, 0x1d3])
        }
        _ if id == KVM_REG_ARM_PSCI_VERSION => maker.random.of(&[1, 2, 0x1_0000, 0x1_0001]),
        0 => u64::from(RAM) + maker.random.u64(..0x10000),
        1 => maker.random.u64(..4),
        _ => maker.random.value(),
    };
    let addr = maker.value_at(value);
    maker.put_with_address(OneReg { id, addr }, 8)
}

pub fn register_list(maker: &mut Maker) -> Argument {
    let room = maker.random.of(&[0, 1, 100, 1000, u64::MAX, 1 << 61, 1 << 32, (1 << 32) + 1000]);
    maker.put(RegList { n: room })
}

pub fn signal_mask(maker: &mut Maker) -> Argument {
    if maker.random.one_in(3) {
        return Argument::Value(0);
    }
    let len = maker.random.of(&[8, 8, 8, 0, 4, 16]);
    maker.put(SignalMask { len });
    // Seldom is the signal that ends a stay among those that are blocked.
    let all = maker.random.one_in(16);
    let set = if all { u64::MAX } else { maker.random.value() & !(1 << (libc::SIGUSR1 - 1)) };
    maker.put([set as u32, (set >> 32) as u32])
}

pub fn init(maker: &mut Maker) -> Argument {
    let target = maker.random.of(&[crate::hostile::target(), crate::hostile::target(), 0, 1, 2]);
    let features = maker.random.of(&[2, 2, 2, 3, 0, 1, 4, 0x8000_0000]);
    maker.put(VcpuInit { target, features: [features, 0, 0, 0, 0, 0, 0] })
}

pub fn mp_state(maker: &mut Maker) -> Argument {
    let mp_state = maker.random.of(&[0, 0, 0, 5, 5, 1, 6]);
    maker.put(MpState { mp_state })
}

pub fn events(maker: &mut Maker) -> Argument {
    let events = VcpuEvents {
        serror_pending: maker.random.of(&[0, 1, 1, 2]),
        serror_has_esr: maker.random.of(&[0, 0, 0, 1]),
        ext_dabt_pending: maker.random.of(&[0, 0, 1]),
        pad: [0; 5],
        serror_esr: 0,
        reserved: [0; 12],
    };
    maker.put(events)
}
