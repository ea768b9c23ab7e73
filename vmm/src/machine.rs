// SPDX-License-Identifier: GPL-2.0-only
//! A virtual machine from its parts to its end.
//!
//! [`run`] puts one together and waits: for input, for output to write out, for a vCPU to stop, for a signal. A reset takes all
//! of it apart but the memory, which is cleared, and puts it together again from the same open files. SIGUSR1, if a file to save to
//! was named, ends it with all of it in that file, from which [`resume`] goes on.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use uapi::{core_index, core_reg};
use vm_superio::SerialState;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Bus;
use crate::device_tree::{self, MachineDescription};
use crate::error::Error;
use crate::guest_memory::{Backing, GuestRam};
use crate::kernel_image::KernelImage;
use crate::kvm::{Gic, Kvm, Vcpu, Vm};
use crate::layout::{DTB_ROOM, MAX_CPUS, MAX_RAM, MIN_RAM, Placement, RAM_BASE, UART0, UART0_SPI, UART1, UART1_SPI};
use crate::saved_machine::{self, BadFile, SavedMachine};
use crate::serial::{SerialPort, Sink, SpiPulse};
use crate::terminal::{self, ESCAPES, EscapeParser, Key, RawTerminal};
use crate::vcpu::{self, Stop, VcpuThread};

/// What to run.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The zImage.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    pub command_line: String,
    /// RAM in bytes.
    pub memory: u64,
    /// What it is made of.
    pub backing: Backing,
    /// How many vCPUs.
    pub cpus: u32,
    /// A device tree to use instead of wsvm's.
    pub dtb: Option<PathBuf>,
    /// Where the second serial port's output goes.
    pub serial: Option<PathBuf>,
    /// Where to write the device tree.
    pub dump_dtb: Option<PathBuf>,
    /// Where to save the machine when SIGUSR1 comes.
    pub save: Option<PathBuf>,
}

/// What to go on with.
#[derive(Clone, Debug)]
pub struct Resumption {
    /// The saved machine.
    pub machine: PathBuf,
    /// What its memory is made of now.
    pub backing: Backing,
    /// Where the second serial port's output goes.
    pub serial: Option<PathBuf>,
    /// Where to save it again when SIGUSR1 comes.
    pub save: Option<PathBuf>,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The guest powered it off.
    PowerOff,
    /// It was saved.
    Saved,
    /// The user typed the escape.
    Escape,
    /// A signal.
    Signal(i32),
}

/// The files that a machine boots from, open, so that a reset finds the same.
struct Boot {
    kernel_file: File,
    kernel: KernelImage,
    initrd_file: Option<File>,
    dtb: Option<Vec<u8>>,
    placement: Placement,
}

/// The signal that saves a machine.
const SAVE: Signal = Signal::SIGUSR1;
const SUPERVISOR_ALL_MASKED: u32 = 0x1d3; // mode 0x13; asynchronous aborts, IRQ and FIQ masked
/// How long output without an end of line waits for more.
const GATHER: Duration = Duration::from_millis(5);
/// How long vCPUs that should stop may take before they are left behind.
const PATIENCE: Duration = Duration::from_secs(2);

/// Runs a machine to its end.
pub fn run(configuration: &Configuration) -> Result<End, Error> {
    hold_save(configuration.save.is_some())?;
    let memory = configuration.memory;
    if memory > MAX_RAM {
        return Err(Error::TooMuchMemory { mib: memory >> 20 });
    }
    debug_assert!(memory >= MIN_RAM);
    let mut boot = Boot::open(configuration)?;
    let kvm = Kvm::open()?;
    let most = kvm.extension(uapi::KVM_CAP_MAX_VCPUS)?.min(MAX_CPUS as u32);
    if configuration.cpus > most {
        return Err(Error::TooManyCpus { asked: configuration.cpus, most });
    }
    let ram = Arc::new(GuestRam::map(RAM_BASE..RAM_BASE + memory, configuration.backing)?);
    let around = Surroundings::take(configuration.save.clone())?;
    loop {
        let machine = Machine::build(configuration, &mut boot, &kvm, &ram)?;
        if let Some(end) = machine.wait(&around, &ram)? {
            return Ok(end);
        }
        ram.clear()?;
    }
}

/// Goes on with a saved machine, to its end.
pub fn resume(resumption: &Resumption) -> Result<End, Error> {
    hold_save(resumption.save.is_some())?;
    let path = &resumption.machine;
    let bad = |source| Error::SavedMachine { path: path.clone(), source };
    let mut file = saved_machine::open(path)?;
    let saved = SavedMachine::read(&mut file).map_err(bad)?;
    let kvm = Kvm::open()?;
    let ram = Arc::new(GuestRam::map(RAM_BASE..RAM_BASE + saved.memory, resumption.backing)?);
    saved_machine::read_memory(&mut file, &ram).map_err(bad)?;
    let around = Surroundings::take(resumption.save.clone())?;
    let machine = Machine::restore(&saved, resumption, &kvm, &ram)?;
    machine.wait(&around, &ram)?.ok_or(Error::ResetAfterResumption)
}

/// What a process has once, whatever machines it runs.
struct Surroundings {
    signals: Signals,
    terminal: Option<RawTerminal>,
    save: Option<PathBuf>,
}

impl Surroundings {
    fn take(save: Option<PathBuf>) -> Result<Self, Error> {
        if let Some(path) = &save {
            saved_machine::check_target(path)?;
        }
        vcpu::prepare()?;
        let signals = Signals::take(save.is_some())?;
        let terminal = RawTerminal::take()?;
        if terminal.is_some() {
            eprintln!("wsvm: {ESCAPES}");
        }
        Ok(Self { signals, terminal, save })
    }
}

/// Opens a file to read. A folder can be opened too, and fails much later with less to say.
fn open_file(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(file)
}

impl Boot {
    fn open(configuration: &Configuration) -> Result<Self, Error> {
        let path = &configuration.kernel;
        let mut kernel_file = open_file(path).map_err(Error::file(path))?;
        let kernel =
            KernelImage::recognise(&mut kernel_file).map_err(|source| Error::Kernel { path: path.clone(), source })?;
        let mut initrd_size = None;
        let mut initrd_file = None;
        if let Some(path) = &configuration.initrd {
            let mut file = open_file(path).map_err(Error::file(path))?;
            match file.seek(SeekFrom::End(0)).map_err(Error::file(path))? {
                0 => return Err(Error::EmptyInitrd { path: path.clone() }),
                size => initrd_size = Some(size),
            }
            initrd_file = Some(file);
        }
        let dtb = match &configuration.dtb {
            Some(path) => {
                // One byte more than there is room for is enough to see that it is too large.
                let mut tree = Vec::new();
                let file = open_file(path).map_err(Error::file(path))?;
                file.take(DTB_ROOM + 1).read_to_end(&mut tree).map_err(Error::file(path))?;
                Some(device_tree::check(tree).map_err(|source| Error::DeviceTree { path: path.clone(), source })?)
            }
            None => None,
        };
        let placement = Placement::new(configuration.memory, &kernel, initrd_size)?;
        Ok(Self { kernel_file, kernel, initrd_file, dtb, placement })
    }

    /// Puts kernel and initrd into memory.
    fn load(&mut self, configuration: &Configuration, ram: &GuestRam) -> Result<(), Error> {
        debug_assert_eq!(self.placement.kernel.end - self.placement.kernel.start, self.kernel.size);
        self.kernel_file.seek(SeekFrom::Start(0)).map_err(Error::file(&configuration.kernel))?;
        ram.fill_from(&mut self.kernel_file, &self.placement.kernel)?;
        if let (Some(file), Some(place), Some(path)) =
            (&mut self.initrd_file, &self.placement.initrd, &configuration.initrd)
        {
            file.seek(SeekFrom::Start(0)).map_err(Error::file(path))?;
            ram.fill_from(file, place)?;
        }
        Ok(())
    }
}

/// Has the signal that saves, if one does, wait until there is a machine, instead of ending the process.
fn hold_save(saves: bool) -> Result<(), Error> {
    let held = if saves { SigSet::from(SAVE) } else { SigSet::empty() };
    held.thread_block().map_err(|errno| Error::host("cannot handle signals")(errno.into()))
}

/// Signals that end the machine in order.
struct Signals(SignalFd);

impl Signals {
    /// Blocks them in this thread and all that it starts, to be read instead.
    fn take(saves: bool) -> Result<Self, Error> {
        let failed = |errno: nix::Error| Error::host("cannot handle signals")(errno.into());
        let mut set = SigSet::empty();
        if saves {
            set.add(SAVE);
        }
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
            set.add(signal);
        }
        set.thread_block().map_err(failed)?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC).map_err(failed)?))
    }

    fn pending(&self) -> Option<i32> {
        Some(self.0.read_signal().ok()??.ssi_signo as i32)
    }
}

/// A machine that runs.
struct Machine {
    vcpus: Vec<VcpuThread>,
    stopped: Receiver<Stop>,
    wake: Arc<EventFd>,
    console: Arc<SerialPort>,
    ports: [Arc<SerialPort>; 2],
    bus: Arc<Bus>,
    /// Where vCPUs say that they have stopped.
    stop: Sender<Stop>,
    gic: Gic,
    // Kept until the vCPUs have stopped.
    _vm: Arc<Vm>,
}

impl Machine {
    /// Puts it together, loads it and starts its vCPUs.
    fn build(configuration: &Configuration, boot: &mut Boot, kvm: &Kvm, ram: &Arc<GuestRam>) -> Result<Self, Error> {
        let vm = Arc::new(kvm.create_vm(ram.clone())?);
        let vcpus = create_vcpus(&vm, configuration.cpus)?;
        let gic = vm.create_gic()?;
        let tree = device_tree_for(configuration, boot, &vm, &vcpus)?;
        boot.load(configuration, ram)?;
        ram.write(&tree, boot.placement.dtb.start)?;
        let start = [
            (core_index::R0, 0),
            (core_index::R0 + 1, u32::MAX), // no machine number: the device tree says it all
            (core_index::R0 + 2, boot.placement.dtb.start as u32),
            (core_index::PC, boot.placement.kernel.start as u32),
            (core_index::CPSR, SUPERVISOR_ALL_MASKED),
        ];
        if let Some(first) = vcpus.first() {
            for (index, value) in start {
                first.set_register(core_reg(index), value)?;
            }
        }

        let fresh = [SerialState::default(), SerialState::default()];
        Self::start(vm, vcpus, gic, configuration.serial.as_deref(), &fresh)?
            .ok_or_else(|| Error::host("cannot make the serial ports")(io::ErrorKind::InvalidInput.into()))
    }

    /// Puts a saved one together and starts its vCPUs.
    fn restore(saved: &SavedMachine, resumption: &Resumption, kvm: &Kvm, ram: &Arc<GuestRam>) -> Result<Self, Error> {
        let vm = Arc::new(kvm.create_vm(ram.clone())?);
        let vcpus = create_vcpus(&vm, saved.vcpus.len() as u32)?;
        let gic = vm.create_gic()?;
        let bad = |source| Error::SavedMachine { path: resumption.machine.clone(), source };
        let refused = |error| match error {
            Error::Kvm { call, source, .. } => bad(BadFile::Refused { call, source }),
            other => other,
        };
        gic.set_state(&saved.gic).map_err(refused)?;
        for (vcpu, state) in vcpus.iter().zip(&saved.vcpus) {
            vcpu.set_state(state).map_err(refused)?;
        }
        let damaged = || bad(BadFile::Damaged("its serial ports are not this wsvm's"));
        Self::start(vm, vcpus, gic, resumption.serial.as_deref(), &saved.ports)?.ok_or_else(damaged)
    }

    /// Gives it its devices and starts its vCPUs. `None`: there is no such state of the serial ports.
    fn start(
        vm: Arc<Vm>,
        vcpus: Vec<Vcpu>,
        gic: Gic,
        serial: Option<&Path>,
        ports: &[SerialState],
    ) -> Result<Option<Self>, Error> {
        let host = Error::host("cannot make an eventfd");
        let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(host)?);
        let port = |state: &SerialState, spi, to: Sink| {
            SerialPort::new(state, SpiPulse::new(vm.clone(), spi), to, wake.clone()).map(Arc::new)
        };
        let second: Sink = match serial {
            Some(path) => {
                let file = File::options().append(true).create(true).open(path);
                Box::new(file.map_err(Error::serial_output(path))?)
            }
            None => Box::new(io::sink()),
        };
        let [first_state, second_state] = ports else { return Ok(None) };
        let console = port(first_state, UART0_SPI, Box::new(io::stdout()));
        let (Some(console), Some(second)) = (console, port(second_state, UART1_SPI, second)) else { return Ok(None) };
        let mut bus = Bus::default();
        bus.add(UART0, console.clone());
        bus.add(UART1, second.clone());
        let bus = Arc::new(bus);

        let (stop, stopped) = mpsc::channel();
        let (ports, vcpu_threads) = ([console.clone(), second], Vec::new());
        let mut machine = Self { vcpus: vcpu_threads, stopped, wake, console, ports, bus, stop, gic, _vm: vm };
        machine.start_vcpus(vcpus)?;
        Ok(Some(machine))
    }

    /// Starts vCPUs: all, or none if it fails.
    fn start_vcpus(&mut self, vcpus: Vec<Vcpu>) -> Result<(), Error> {
        for vcpu in vcpus {
            match VcpuThread::start(vcpu, self.bus.clone(), self.stop.clone(), self.wake.clone()) {
                Ok(thread) => self.vcpus.push(thread),
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Waits for its end. `None`: it asks to be started again.
    fn wait(mut self, around: &Surroundings, ram: &GuestRam) -> Result<Option<End>, Error> {
        let end = loop {
            let end = self.attend(&around.signals, around.terminal.is_some());
            let count = self.vcpus.len();
            let vcpus = self.stop();
            let end = end?;
            let Some(path) = around.save.as_ref().filter(|_| end == Some(End::Signal(SAVE as i32))) else { break end };
            // It may have come to its end by itself meanwhile.
            if let Some(stop) = self.stopped.try_iter().find(|stop| !matches!(stop, Stop::Asked)) {
                break stop.end()?;
            }
            if vcpus.len() < count {
                return Err(Error::host("cannot save: a vCPU does not stop")(io::ErrorKind::TimedOut.into()));
            }
            match self.save(&vcpus, ram).and_then(|saved| saved.write(path, ram)) {
                Ok(()) => break Some(End::Saved),
                Err(error) => eprintln!("wsvm: the machine was not saved, and goes on: {error}"),
            }
            self.start_vcpus(vcpus)?;
        };
        for (port, name) in self.ports.iter().zip(["ttyS0", "ttyS1"]) {
            if let Some(source) = port.take_loss() {
                return Err(Error::LostOutput { port: name, source });
            }
        }
        Ok(end)
    }

    fn attend(&self, signals: &Signals, terminal: bool) -> Result<Option<End>, Error> {
        let mut escapes = EscapeParser::default();
        let mut input_open = terminal || !nix::unistd::isatty(terminal::stdin_fd()).unwrap_or(false);
        let mut flush_at: Option<Instant> = None;
        loop {
            let room = self.console.room();
            // SAFETY: the eventfd lives in `self`, longer than this borrow of its descriptor.
            let wake = unsafe { BorrowedFd::borrow_raw(self.wake.as_raw_fd()) };
            let mut fds = vec![PollFd::new(wake, PollFlags::POLLIN), PollFd::new(signals.0.as_fd(), PollFlags::POLLIN)];
            if input_open && room > 0 {
                fds.push(PollFd::new(terminal::stdin_fd(), PollFlags::POLLIN));
            }
            let timeout = match flush_at {
                Some(at) => {
                    PollTimeout::try_from(at.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
                }
                None => Ok(PollTimeout::NONE),
            };
            match poll(&mut fds, timeout.unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(errno) => return Err(Error::host("poll")(errno.into())),
            }
            let readable = fds.get(2).is_some_and(|fd| fd.any().unwrap_or(true));

            let _ = self.wake.read(); // nothing there is no harm
            match self.stopped.try_recv() {
                Ok(Stop::Asked) | Err(_) => {}
                Ok(stop) => return stop.end(),
            }
            if let Some(signal) = signals.pending() {
                return Ok(Some(End::Signal(signal)));
            }
            if readable {
                let mut keys = [0; 64];
                let most = room.min(keys.len());
                match terminal::read_stdin(&mut keys[..most]) {
                    Ok(0) => input_open = false,
                    Ok(count) => {
                        if self.type_in(&keys[..count], terminal.then_some(&mut escapes)) {
                            return Ok(Some(End::Escape));
                        }
                    }
                    Err(error)
                        if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::Interrupted => {}
                    // A terminal that was hung up, a closed descriptor: no more input, but the guest goes on.
                    Err(_) => input_open = false,
                }
            }
            flush_at = self.flush_if_due(flush_at);
        }
    }

    /// Writes out what has waited long enough. Returns when the rest is due.
    fn flush_if_due(&self, due: Option<Instant>) -> Option<Instant> {
        let waiting = self.ports.iter().any(|port| port.has_output());
        match due {
            Some(at) if waiting && at <= Instant::now() => {
                self.ports.iter().for_each(|port| port.flush());
                None
            }
            Some(at) if waiting => Some(at),
            None if waiting => Some(Instant::now() + GATHER),
            _ => None,
        }
    }

    /// Gives the guest what was typed. `true`: the user wants the end.
    fn type_in(&self, keys: &[u8], escapes: Option<&mut EscapeParser>) -> bool {
        let Some(escapes) = escapes else {
            self.console.input(keys);
            return false;
        };
        let mut send = Vec::new();
        for key in keys {
            match escapes.key(*key) {
                Key::Send(byte) => send.push(byte),
                Key::Nothing => {}
                Key::Quit => return true,
                Key::Help => eprintln!("wsvm: {ESCAPES}"),
            }
        }
        if !send.is_empty() {
            self.console.input(&send);
        }
        false
    }

    /// All of it but the memory. Its vCPUs have stopped.
    fn save(&self, vcpus: &[Vcpu], ram: &GuestRam) -> Result<SavedMachine, Error> {
        let memory = ram.guest();
        Ok(SavedMachine {
            memory: memory.end - memory.start,
            vcpus: vcpus.iter().map(Vcpu::state).collect::<Result<_, _>>()?,
            gic: self.gic.state(vcpus.len() as u8)?,
            ports: self.ports.iter().map(|port| port.state()).collect(),
        })
    }

    /// Stops the vCPUs, whatever access is under way being done, and writes out what is left.
    fn stop(&mut self) -> Vec<Vcpu> {
        let deadline = Instant::now() + PATIENCE;
        // A signal can come between two looks at it and be lost: ask again until each has stopped.
        while self.vcpus.iter().any(|vcpu| !vcpu.has_stopped()) && Instant::now() < deadline {
            self.vcpus.iter().filter(|vcpu| !vcpu.has_stopped()).for_each(VcpuThread::ask_to_stop);
            std::thread::sleep(Duration::from_millis(1));
        }
        for port in &self.ports {
            port.flush();
        }
        self.vcpus.drain(..).filter(VcpuThread::has_stopped).filter_map(VcpuThread::join).collect()
    }
}

fn create_vcpus(vm: &Vm, count: u32) -> Result<Vec<Vcpu>, Error> {
    let target = vm.preferred_target()?;
    (0..count)
        .map(|id| {
            let vcpu = vm.create_vcpu(id)?;
            let mut init = target;
            init.set(uapi::KVM_ARM_VCPU_PSCI_0_2);
            if id > 0 {
                init.set(uapi::KVM_ARM_VCPU_POWER_OFF); // until the guest turns it on
            }
            vcpu.init(&init)?;
            Ok(vcpu)
        })
        .collect()
}

fn device_tree_for(configuration: &Configuration, boot: &Boot, vm: &Vm, vcpus: &[Vcpu]) -> Result<Vec<u8>, Error> {
    let tree = match &boot.dtb {
        Some(tree) => tree.clone(),
        None => {
            let mpidr = vcpus.iter().map(|vcpu| vcpu.register(uapi::CP15_MPIDR)).collect::<Result<Vec<_>, _>>()?;
            let cpu_compatible = match vm.preferred_target()?.target {
                uapi::KVM_ARM_TARGET_CORTEX_A7 => "arm,cortex-a7",
                _ => "arm,cortex-a15",
            };
            device_tree::make(&MachineDescription {
                cpu_compatible,
                mpidr: &mpidr,
                ram: boot.placement.ram.clone(),
                command_line: &configuration.command_line,
                initrd: boot.placement.initrd.clone(),
            })?
        }
    };
    if let Some(path) = &configuration.dump_dtb {
        std::fs::write(path, &tree).map_err(Error::file(path))?;
    }
    Ok(tree)
}
