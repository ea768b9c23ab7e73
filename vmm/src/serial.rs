// SPDX-License-Identifier: GPL-2.0-only
//! A serial port: vm-superio's 16550A on the bus, its interrupt at the GIC, its output buffered by the line.
//!
//! The model calls its trigger on each new reason for an interrupt, and never says when a reason has gone. That is an edge: the line
//! goes up and down at once, and the device tree calls it edge-triggered. No interrupt is lost: the vGIC latches an edge
//! until it is taken, and again while it is active; the driver reads the port until it has no reason left; and enabling
//! an interrupt at the port whose reason stands triggers anew.
//!
//! A guest writes one byte an access; a system call for each would double its cost. Output is therefore gathered up to the end of a
//! line, and the rest is written a few milliseconds later by the thread that waits for input.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uapi::IrqLine;
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, SerialState, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Device;
use crate::kvm::Vm;
use crate::layout::FIRST_SPI;

/// Bytes of output that are gathered at most.
const GATHERED: usize = 1024;

/// A serial port, shared between the vCPUs and the thread that has its input.
pub struct SerialPort {
    model: Mutex<Serial<SpiPulse, RoomForInput, LineBuffered>>,
}

/// Pulses a shared interrupt of a machine.
pub struct SpiPulse {
    vm: Arc<Vm>,
    line: IrqLine,
}

impl SpiPulse {
    /// Pulses shared interrupt `spi`, counted from 0.
    pub fn new(vm: Arc<Vm>, spi: u16) -> Self {
        Self { vm, line: IrqLine::Spi { number: FIRST_SPI + spi } }
    }
}

impl Trigger for SpiPulse {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.vm.set_line(self.line, true)?;
        self.vm.set_line(self.line, false)
    }
}

/// Wakes the thread that has the input when the guest has read all it was given.
struct RoomForInput(Arc<EventFd>);

impl SerialEvents for RoomForInput {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // It fails only if the counter is full, and then the thread is awake.
        let _ = self.0.write(1);
    }
}

/// Where a port's output goes.
pub type Sink = Box<dyn Write + Send>;

/// Gathers output up to the end of a line.
struct LineBuffered {
    gathered: Vec<u8>,
    to: Sink,
    wake: Arc<EventFd>,
    /// Why output was lost, the first time.
    lost: Option<io::Error>,
}

impl LineBuffered {
    fn new(to: Sink, wake: Arc<EventFd>) -> Self {
        Self { gathered: Vec::with_capacity(GATHERED), to, wake, lost: None }
    }

    fn write_out(&mut self) {
        // What cannot be written is lost, as on a wire that nobody listens to: the guest must not wait for it. Whoever ran the machine
        // is told at its end.
        if let Err(error) = self.to.write_all(&self.gathered).and_then(|()| self.to.flush()) {
            self.lost.get_or_insert(error);
        }
        self.gathered.clear();
    }
}

impl Write for LineBuffered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let first = self.gathered.is_empty();
        self.gathered.extend_from_slice(bytes);
        if bytes.contains(&b'\n') || self.gathered.len() >= GATHERED {
            self.write_out();
        } else if first {
            let _ = self.wake.write(1); // as in `RoomForInput`
        }
        Ok(bytes.len())
    }

    /// The model calls this after each byte: a line is flushed at its end, or by [`SerialPort::flush`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SerialPort {
    /// Makes a port in a state, whose interrupt is `interrupt` and whose output goes `to`. `wake` is signalled when it wants
    /// [`Self::flush`] or has room for input again. `None`: there is no such state.
    pub fn new(state: &SerialState, interrupt: SpiPulse, to: Sink, wake: Arc<EventFd>) -> Option<Self> {
        let out = LineBuffered::new(to, wake.clone());
        Some(Self { model: Mutex::new(Serial::from_state(state, interrupt, RoomForInput(wake), out).ok()?) })
    }

    /// Its state. What it gathered of output is not part of it.
    pub fn state(&self) -> SerialState {
        self.model().state()
    }

    fn model(&self) -> MutexGuard<'_, Serial<SpiPulse, RoomForInput, LineBuffered>> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes of input it has room for.
    pub fn room(&self) -> usize {
        self.model().fifo_capacity()
    }

    /// Gives it input, as much of it as there is room for.
    pub fn input(&self, bytes: &[u8]) {
        let mut model = self.model();
        let bytes = &bytes[..bytes.len().min(model.fifo_capacity())];
        // It fails if the interrupt could not be raised: then the machine is at its end.
        let _ = model.enqueue_raw_bytes(bytes);
    }

    /// Whether it holds output of an unfinished line.
    pub fn has_output(&self) -> bool {
        !self.model().writer().gathered.is_empty()
    }

    /// Writes out what it holds.
    pub fn flush(&self) {
        self.model().writer_mut().write_out();
    }

    /// Why output was lost, if any was.
    pub fn take_loss(&self) -> Option<io::Error> {
        self.model().writer_mut().lost.take()
    }
}

impl Device for SerialPort {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Ok(register) = u8::try_from(offset) {
            data[0] = self.model().read(register);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Ok(register) = u8::try_from(offset) {
            // It fails if the interrupt could not be raised; see above.
            let _ = self.model().write(register, data[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn output_comes_by_the_line_and_a_prompt_wakes_the_flusher() {
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap());
        let seen = Shared::default();
        let mut out = LineBuffered::new(Box::new(seen.clone()), wake.clone());
        for byte in b"ab\n$ " {
            out.write_all(&[*byte]).unwrap();
        }
        assert_eq!(*seen.0.lock().unwrap(), [b"ab\n"]);
        assert_eq!(wake.read().unwrap(), 2); // once a line, not once a byte
        out.write_out();
        assert_eq!(*seen.0.lock().unwrap(), [&b"ab\n"[..], b"$ "]);
        out.write_all(&[b'x'; GATHERED]).unwrap();
        assert!(out.gathered.is_empty() && out.lost.is_none());
    }

    #[test]
    fn lost_output_is_remembered_and_keeps_nobody_waiting() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut out = LineBuffered::new(Box::new(Full), Arc::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()));
        out.write_all(b"first\nsecond\n").unwrap();
        assert!(out.gathered.is_empty());
        assert_eq!(out.lost.map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
    }
}
