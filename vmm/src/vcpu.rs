// SPDX-License-Identifier: GPL-2.0-only
//! A vCPU's thread: runs the guest, answers its device accesses, and reports why it stopped.
//!
//! To stop it, its page is told to exit immediately and then its thread gets a signal: if the guest is running, the signal ends the
//! run; if the thread is just about to run it, the page does.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use uapi::{Exit, Mmio, core_index, core_reg};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::bus::Bus;
use crate::error::Error;
use crate::kvm::Vcpu;
use crate::kvm_fd::RunPage;
use crate::machine::End;

/// Why a vCPU's thread ended.
#[derive(Debug)]
pub enum Stop {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest asks for a restart.
    Reset,
    /// It was told to.
    Asked,
    /// The guest or the host cannot go on.
    Failed(Error),
}

impl Stop {
    /// How the machine ends with it. `None`: it is to be started again.
    pub fn end(self) -> Result<Option<End>, Error> {
        match self {
            Self::PowerOff | Self::Asked => Ok(Some(End::PowerOff)),
            Self::Reset => Ok(None),
            Self::Failed(error) => Err(error),
        }
    }
}

/// A running vCPU thread.
pub struct VcpuThread {
    page: Arc<RunPage>,
    thread: JoinHandle<Vcpu>,
}

extern "C" fn only_interrupt(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Prepares the process: the signal that interrupts vCPUs must not end it.
pub fn prepare() -> Result<(), Error> {
    register_signal_handler(SIGRTMIN(), only_interrupt)
        .map_err(|error| Error::host("cannot handle signals")(error.into()))
}

impl VcpuThread {
    /// Starts a thread that runs `vcpu` until something stops it; then sends why, and signals `wake`.
    pub fn start(mut vcpu: Vcpu, bus: Arc<Bus>, stopped: Sender<Stop>, wake: Arc<EventFd>) -> Result<Self, Error> {
        let page = vcpu.page();
        page.may_run();
        let thread = thread::Builder::new().name(format!("vcpu{}", vcpu.id())).spawn(move || {
            let stop = run(&mut vcpu, &bus);
            // The receiver is gone only if the machine has ended already.
            let _ = stopped.send(stop);
            let _ = wake.write(1);
            vcpu
        });
        Ok(Self { page, thread: thread.map_err(Error::host("cannot start a thread for a vCPU"))? })
    }

    /// Has it stop soon.
    pub fn ask_to_stop(&self) {
        self.page.exit_immediately();
        // It fails only if the thread has ended.
        let _ = self.thread.kill(SIGRTMIN());
    }

    /// Whether it has stopped.
    pub fn has_stopped(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it has stopped, and gives the vCPU back. `None`: it panicked, which the panic hook has reported.
    pub fn join(self) -> Option<Vcpu> {
        self.thread.join().ok()
    }
}

fn run(vcpu: &mut Vcpu, bus: &Bus) -> Stop {
    loop {
        match vcpu.run() {
            Ok(Exit::Mmio(mmio)) => match answer(bus, mmio) {
                Ok(Some(data)) => vcpu.answer_mmio(data),
                Ok(None) => {}
                Err(length) => {
                    return died(vcpu, &format!("it accessed {length} bytes at {:#x}", mmio.phys_addr));
                }
            },
            // A debugger, or SIGSTOP and SIGCONT, interrupt a run too: that is no reason to end.
            Ok(Exit::Interrupted) if vcpu.asked_to_exit() => return Stop::Asked,
            Ok(Exit::Interrupted) => {}
            Ok(Exit::SystemEvent { event: uapi::KVM_SYSTEM_EVENT_SHUTDOWN, .. }) => return Stop::PowerOff,
            Ok(Exit::SystemEvent { event: uapi::KVM_SYSTEM_EVENT_RESET, .. }) => return Stop::Reset,
            Ok(Exit::SystemEvent { event: uapi::KVM_SYSTEM_EVENT_CRASH, .. }) => {
                return died(vcpu, "it says that it has crashed");
            }
            Ok(Exit::SystemEvent { event, .. }) => {
                return died(vcpu, &format!("unknown system event {event}"));
            }
            Ok(Exit::Unknown { hardware_exit_reason }) => {
                return died(vcpu, &format!("KVM does not know why it left (HSR {hardware_exit_reason:#010x})"));
            }
            Ok(Exit::FailEntry { hardware_entry_failure_reason, cpu }) => {
                return died(
                    vcpu,
                    &format!("CPU {cpu} could not enter it (reason {hardware_entry_failure_reason:#x})"),
                );
            }
            Ok(Exit::InternalError { suberror, ndata, data }) => {
                let data = data.get(..ndata as usize).unwrap_or(&data);
                return died(vcpu, &format!("internal error {suberror} of KVM {data:x?}; see dmesg"));
            }
            Ok(Exit::ArmNisv { fault_ipa, .. }) => {
                return died(vcpu, &format!("it accessed {fault_ipa:#x} with an instruction that cannot be emulated"));
            }
            Ok(Exit::Other { reason }) => {
                return died(vcpu, &format!("unknown exit reason {reason} of KVM"));
            }
            // KVM's answer to an access that nothing describes (Documentation/virt/kvm/api.rst, KVM_EXIT_ARM_NISV).
            Err(Error::Kvm { source, .. }) if source.raw_os_error() == Some(Errno::ENOSYS as i32) => {
                return died(vcpu, "it accessed a device with an instruction that cannot be emulated");
            }
            Err(error) => return Stop::Failed(error),
        }
    }
}

/// Answers a device access: the bytes that a read gets. `Err`: a length that no instruction has.
fn answer(bus: &Bus, mmio: Mmio) -> Result<Option<[u8; 8]>, u32> {
    if !matches!(mmio.len, 1 | 2 | 4 | 8) {
        return Err(mmio.len);
    }
    let length = mmio.len as usize;
    // Where nobody answers, as on a bus without a device: reads are zero, writes are lost.
    if mmio.is_write {
        bus.write(mmio.phys_addr, &mmio.data[..length]);
        Ok(None)
    } else {
        Ok(Some(bus.read(mmio.phys_addr, length).unwrap_or_default()))
    }
}

/// The guest cannot go on: says why, and where it was.
fn died(vcpu: &Vcpu, why: &str) -> Stop {
    let register = |index| vcpu.register(core_reg(index)).map_or("?".into(), |value| format!("{value:#010x}"));
    let (pc, cpsr, lr) = (register(core_index::PC), register(core_index::CPSR), register(core_index::LR_USR));
    Stop::Failed(Error::GuestDied(format!("{why}; vCPU {} at PC {pc}, CPSR {cpsr}, LR_usr {lr}", vcpu.id())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Device;

    struct Answers42;
    impl Device for Answers42 {
        fn read(&self, _: u64, data: &mut [u8]) {
            data[0] = 42;
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn accesses_are_answered_by_length_and_direction() {
        let mut bus = Bus::default();
        bus.add(0x1000..0x2000, Arc::new(Answers42));
        let mmio = |phys_addr, len, is_write| Mmio { phys_addr, data: [0xee; 8], len, is_write };
        assert_eq!(answer(&bus, mmio(0x1000, 4, false)), Ok(Some([42, 0, 0, 0, 0, 0, 0, 0])));
        assert_eq!(answer(&bus, mmio(0x1000, 4, true)), Ok(None));
        assert_eq!(answer(&bus, mmio(0x9000, 1, false)), Ok(Some([0; 8])));
        assert_eq!(answer(&bus, mmio(0x1000, 3, false)), Err(3));
        assert_eq!(answer(&bus, mmio(0x1000, u32::MAX, true)), Err(u32::MAX));
    }
}
