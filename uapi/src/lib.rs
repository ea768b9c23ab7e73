// SPDX-License-Identifier: GPL-2.0-only
//! The KVM system-call interface of 32-bit Arm, as Linux 5.6 had it: numbers and structures, nothing else.
//!
//! Constants carry the names that the kernel's documentation gives them (`KVM_CREATE_VM`), so that they are found by searching;
//! structures drop the `kvm_` prefix (`struct kvm_run` is [`Run`]). Every structure is `#[repr(C)]` and made of fixed-width integers
//! only: pointers of the process travel as `u64`, as in C. Under AAPCS and under x86-64 such structures have the same layout,
//! so sizes and offsets, asserted beside each type at compile time, are checked on the developer's machine too.
//!
//! The crate serves both ends. The module decodes what a process alleges ([`Register::from_id`], [`IrqLine::decode`], [`Exit::encode`]);
//! the monitor does the reverse with the same code. All decoders are total: any bit pattern yields a value or a refusal.
//!
//! Source: Documentation/virt/kvm/api.rst and devices/ of Linux 5.6. The numbers were compared with a C program built against
//! Linux's own headers, the register ids with the answers of KVM/ARM on a Cortex-A15.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

/// Asserts the size of a structure and the offset of its fields: what 32-bit Arm's C compiler makes of it.
macro_rules! layout {
    ($type:ty, $size:expr $(, $field:ident @ $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}

pub mod caps;
pub mod device;
pub mod ioctl;
pub mod irq;
pub mod memory;
pub mod psci;
pub mod registers;
pub mod run;
pub mod vcpu;

pub use caps::*;
pub use device::*;
pub use ioctl::*;
pub use irq::*;
pub use memory::*;
pub use registers::*;
pub use run::*;
pub use vcpu::*;
