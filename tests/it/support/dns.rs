//! A DNS server on the loopback interface with the records that a test gives it, and faults to choose from.
//! Its answers may not be kept, so that every look-up comes here.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use tokio::{net::UdpSocket, task::JoinHandle};

/// What it does instead of answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsFault {
    Says(ResponseCode),
    /// It says so where it is asked for this.
    SaysOf(RecordType, ResponseCode),
    Silent,
    Garbage,
    /// It says that the answer is too long for a datagram, and takes no connections.
    TooLong,
    /// It answers everything that is asked for the second time.
    Slow,
}

pub struct Dns {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    answering: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// `A 127.0.0.1`, `MX 10 mx.one.example`, `CNAME one.example`, `TXT some words`, by name.
    records: HashMap<String, Vec<String>>,
    fault: Option<DnsFault>,
    asked: HashMap<(String, RecordType), usize>,
}

impl Dns {
    pub async fn start(records: &[(&str, &str)]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let dns = Self { address, shared: shared.clone(), answering: tokio::spawn(answer_all(socket, shared)) };
        for (name, record) in records {
            dns.add(name, record);
        }
        dns
    }

    pub fn add(&self, name: &str, record: &str) {
        self.shared.lock().unwrap().records.entry(name.to_owned()).or_default().push(record.to_owned());
    }

    /// Replaces all records of a name.
    pub fn set(&self, name: &str, record: &str) {
        self.shared.lock().unwrap().records.insert(name.to_owned(), vec![record.to_owned()]);
    }

    pub fn fails(&self, fault: Option<DnsFault>) {
        self.shared.lock().unwrap().fault = fault;
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn answer_all(socket: UdpSocket, shared: Arc<Mutex<Shared>>) {
    let mut datagram = [0; 2048];
    while let Ok((length, client)) = socket.recv_from(&mut datagram).await {
        let Ok(request) = Message::from_vec(&datagram[..length]) else { continue };
        let answer = shared.lock().unwrap().answer(&request);
        if let Some(answer) = answer {
            socket.send_to(&answer, client).await.unwrap();
        }
    }
}

impl Shared {
    fn answer(&mut self, request: &Message) -> Option<Vec<u8>> {
        let query = request.queries.first()?.clone();
        let mut response = Message::response(request.metadata.id, request.metadata.op_code);
        response.metadata.message_type = MessageType::Response;
        response.metadata.recursion_available = true;
        response.add_query(query.clone());
        let name = query.name().to_ascii().trim_end_matches('.').to_lowercase();
        let asked = self.asked.entry((name.clone(), query.query_type())).or_default();
        *asked += 1;
        match self.fault {
            Some(DnsFault::Silent) => return None,
            Some(DnsFault::Slow) if *asked == 1 => return None,
            Some(DnsFault::Garbage) => return Some(b"garbage".to_vec()),
            Some(DnsFault::TooLong) => response.metadata.truncation = true,
            Some(DnsFault::Says(code)) => response.metadata.response_code = code,
            Some(DnsFault::SaysOf(kind, code)) if kind == query.query_type() => {
                response.metadata.response_code = code;
            }
            Some(DnsFault::Slow | DnsFault::SaysOf(..)) | None => {
                self.add_records(&mut response, &name, query.query_type())
            }
        }
        response.to_vec().ok()
    }

    fn add_records(&self, response: &mut Message, name: &str, wanted: RecordType) {
        let Some(records) = self.records.get(name) else {
            if response.answers.is_empty() {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            return;
        };
        let owner = Name::from_ascii(format!("{name}.")).unwrap();
        for record in records {
            let (kind, data) = record.split_once(' ').unwrap();
            let name_of = |text: &str| Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap();
            let data = match kind {
                "A" if wanted == RecordType::A => RData::A(rdata::A(data.parse().unwrap())),
                "AAAA" if wanted == RecordType::AAAA => RData::AAAA(rdata::AAAA(data.parse().unwrap())),
                "MX" if wanted == RecordType::MX => {
                    let (preference, host) = data.split_once(' ').unwrap();
                    RData::MX(rdata::MX::new(preference.parse().unwrap(), name_of(host)))
                }
                // In two strings, as a long one has to be.
                "TXT" if wanted == RecordType::TXT => {
                    let (first, second) = data.split_at(data.len() / 2);
                    RData::TXT(rdata::TXT::new(vec![first.to_owned(), second.to_owned()]))
                }
                "CNAME" => {
                    let target = RData::CNAME(rdata::CNAME(name_of(data)));
                    response.add_answer(Record::from_rdata(owner.clone(), 0, target));
                    self.add_records(response, data, wanted);
                    continue;
                }
                _ => continue,
            };
            response.add_answer(Record::from_rdata(owner.clone(), 0, data));
        }
    }
}
