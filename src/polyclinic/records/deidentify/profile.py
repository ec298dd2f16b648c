"""DICOM PS3.15 Annex E as data: Table E.1-1, its options, and what this de-identifier adds to it.

The table names what must go; new attributes come with every edition of the standard. So what is not in it is judged by its value
representation (Note 4 and 5 of E.1.1): text and binary that are not listed here as safe go, dates move, UIDs are replaced, codes and
numbers stay. Action codes, Table E.1-1a: D dummy, Z empty, X removed, K kept, C cleaned, U replaced UID. Where the table leaves a
choice (X/Z/D), the one is taken that keeps the object valid in the most kinds of it.
"""

from __future__ import annotations

BASIC = {
    "X": """
    AcquisitionComments AcquisitionProtocolDescription ActualHumanPerformersSequence AdditionalPatientHistory AddressTrial AdmissionID
    AdmittingDiagnosesCodeSequence AdmittingDiagnosesDescription AffectedSOPInstanceUID Allergies AnnotationGroupDescription
    AuthorObserverSequence BeamDescription BolusDescription BranchOfService CameraOwnerName CassetteID CertifiedTimestamp
    ClinicalTrialProtocolEthicsCommitteeApprovalNumber ClinicalTrialSeriesDescription ClinicalTrialSeriesID
    ClinicalTrialTimePointDescription CommentsOnRadiationDose CommentsOnThePerformedProcedureStep CompensatorDescription
    ConfidentialityConstraintOnPatientDataDescription ConsultingPhysicianIdentificationSequence ContainerComponentID
    ContainerDescription ContentCreatorIdentificationCodeSequence ContributionDescription CountryOfResidence CurrentObserverTrial
    CurrentPatientLocation CustodialOrganizationSequence DataSetTrailingPadding DecompositionDescription DerivationDescription
    DeviceDescription DeviceSettingDescription DigitalSignaturesSequence DischargeDiagnosisDescription DisplacementReferenceLabel
    DoseReferenceDescription EntityDescription EntityName EquipmentFrameOfReferenceDescription EthnicGroup
    EthnicGroupCodeSequence FilterLookupTableDescription FixationDeviceDescription FractionGroupDescription FrameComments GantryID
    GeneratorID HumanPerformerName HumanPerformerOrganization IconImageSequence IdentifyingComments ImageComments
    ImagePresentationComments ImagingServiceRequestComments InstanceOriginStatus InstitutionAddress InstitutionalDepartmentName
    InstitutionalDepartmentTypeCodeSequence InsurancePlanIdentification IntendedRecipientsOfResultsIdentificationSequence
    IssuerOfAdmissionID IssuerOfAdmissionIDSequence IssuerOfClinicalTrialProtocolID IssuerOfClinicalTrialSeriesID
    IssuerOfClinicalTrialSiteID IssuerOfClinicalTrialSubjectID IssuerOfClinicalTrialSubjectReadingID IssuerOfClinicalTrialTimePointID
    IssuerOfPatientID IssuerOfPatientIDQualifiersSequence IssuerOfServiceEpisodeID IssuerOfServiceEpisodeIDSequence
    IssuerOfAccessionNumberSequence OrderPlacerIdentifierSequence OrderFillerIdentifierSequence LensMake LensModel LensSerialNumber
    LensSpecification LongDeviceDescription MAC MakerNote MedicalAlerts MedicalRecordLocator MilitaryRank ModifiedAttributesSequence
    ModifiedImageDescription ModifyingDeviceID MultienergyAcquisitionDescription NameOfPhysiciansReadingStudy
    NamesOfIntendedRecipientsOfResults NetworkID NonconformingDataElementValue NonconformingModifiedAttributesSequence Occupation
    OrderCallbackPhoneNumber OrderCallbackTelecomInformation OrderEnteredBy OrderEntererLocation OriginalAttributesSequence Originator
    OtherClinicalTrialProtocolIDsSequence OtherPatientIDs OtherPatientIDsSequence OtherPatientNames ParticipantSequence PatientAddress
    PatientBirthName PatientBirthTime PatientComments PatientInstitutionResidence PatientInsurancePlanCodeSequence
    PatientMotherBirthName PatientPrimaryLanguageCodeSequence PatientPrimaryLanguageModifierCodeSequence PatientReligiousPreference
    PatientSetupPhotoDescription PatientState PatientTelecomInformation PatientTelephoneNumbers PatientTransportArrangements
    PatientTreatmentPreparationMethodDescription PatientTreatmentPreparationProcedureParameterDescription
    PatientBirthDateInAlternativeCalendar PatientDeathDateInAlternativeCalendar PatientAlternativeCalendar PerformedLocation
    PerformedProcedureStepDescription PerformedProcedureStepID PerformedStationAETitle PerformedStationGeographicLocationCodeSequence
    PerformedStationName PerformedStationNameCodeSequence PerformingPhysicianIdentificationSequence PerformingPhysicianName
    PersonAddress PersonTelecomInformation PersonTelephoneNumbers PhysicianApprovingInterpretation
    PhysiciansReadingStudyIdentificationSequence PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence PlateID
    PositionAcquisitionTemplateDescription PositionAcquisitionTemplateName PreMedication PrescriptionDescription
    PriorTreatmentDoseDescription PyramidDescription PyramidLabel ROICreatorSequence ROIDescription ROIGenerationDescription
    ROIInterpreterSequence ROIObservationDescription ROIObservationLabel RTPlanDescription RTPlanName ReasonForOmissionDescription
    ReasonForRequestedProcedureCodeSequence ReasonForStudy ReasonForVisit ReasonForVisitCodeSequence ReasonForTheImagingServiceRequest
    ReasonForTheRequestedProcedure ReceivingAE ReferencedDigitalSignatureSequence ReferencedPatientAliasSequence
    ReferencedPatientPhotoSequence ReferencedPatientSequence ReferencedSOPInstanceMACSequence ReferringPhysicianAddress
    ReferringPhysicianIdentificationSequence ReferringPhysicianTelephoneNumbers RegionOfResidence RequestAttributesSequence
    RequestedContrastAgent RequestedProcedureComments RequestedProcedureID RequestedProcedureLocation RequestedSeriesDescription
    RequestingAE RequestingPhysician RequestingPhysicianIdentificationSequence RequestingService
    RespiratoryMotionCompensationTechniqueDescription ResponsibleOrganization ResponsiblePerson RetrieveAETitle
    ScheduledHumanPerformersSequence ScheduledPatientInstitutionResidence ScheduledPerformingPhysicianIdentificationSequence
    ScheduledPerformingPhysicianName ScheduledProcedureStepDescription ScheduledProcedureStepID ScheduledProcedureStepLocation
    ScheduledStationAETitle ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence
    ScheduledStudyLocation ScheduledStudyLocationAETitle SeriesDescription SeriesDescriptionCodeSequence ServiceEpisodeDescription
    ServiceEpisodeID SetupTechniqueDescription ShieldingDeviceDescription SlideIdentifier SourceManufacturer SpecialNeeds
    SpecimenAccessionNumber SpecimenDetailedDescription SpecimenShortDescription StationAETitle StructureSetDescription
    StructureSetName StudyComments StudyDescription StudyIDIssuer TelephoneNumberTrial TemplateLocalVersion TemplateVersion TextString
    TimezoneOffsetFromUTC TopicAuthor TopicKeywords TopicSubject TopicTitle TransducerIdentificationSequence TreatmentSites UDISequence
    UniqueDeviceIdentifier VerbalSourceTrial VerbalSourceIdentifierCodeSequenceTrial VisitComments XRayDetectorLabel
    WaveformFilterDescription EncryptedAttributesSequence HL7InstanceIdentifier
    """,
    "Z": """
    ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialTimePointID
    ConceptualVolumeCombinationDescription ConceptualVolumeDescription ConsultingPhysicianName ContrastBolusAgent
    DeviceAlternateIdentifier FillerOrderNumberImagingServiceRequest FractionationNotes IssuerOfTheContainerIdentifierSequence
    IssuerOfTheSpecimenIdentifierSequence ManufacturerDeviceIdentifier PatientBirthDate PatientName
    PlacerOrderNumberImagingServiceRequest PrescriptionNotes PrescriptionNotesSequence ROIInterpreter RTAccessoryDeviceSlotID
    RTAccessoryHolderSlotID RTPhysicianIntentNarrative RadiationGenerationModeDescription ReasonForSuperseding ReferringPhysicianName
    SourceOfPreviousValues TreatmentTechniqueNotes VerifyingObserverIdentificationCodeSequence BarcodeValue LabelText
    RequestedProcedureDescription ReviewerName SourceSerialNumber TreatmentMachineName InstitutionCodeSequence InstitutionName
    OperatorsName OperatorIdentificationSequence StationName DocumentTitle
    """,
    "D": """
    AcquisitionFieldOfViewLabel AnnotationGroupLabel CertificateOfSigner ClinicalTrialProtocolEthicsCommitteeName
    ClinicalTrialSponsorName ContextGroupLocalVersion ContextGroupVersion ContentCreatorName DestinationAE DeviceLabel DeviceSerialNumber
    DetectorID EntityLabel EntityLongLabel FlowIdentifier InterlockDescription InterlockOriginDescription ModifyingSystem
    PersonIdentificationCodeSequence PersonName RTPlanLabel RTPrescriptionLabel RTToleranceSetLabel RadiationDoseIdentificationLabel
    RadiationDoseInVivoMeasurementLabel RadiationGenerationModeLabel ReasonForTheAttributeModification RTTreatmentApproachLabel
    SelectorAEValue SelectorASValue SelectorLOValue SelectorLTValue SelectorOBValue SelectorPNValue SelectorSHValue SelectorSTValue
    SelectorUNValue SelectorURValue SelectorUTValue SelectorUCValue SourceIdentifier StructureSetLabel
    TreatmentPositionGroupLabel TreatmentSite
    TreatmentToleranceViolationDescription UserContentLabel UserContentLongLabel VerifyingObserverName VerifyingOrganization
    XRayDetectorID XRaySourceID UnformattedTextValue ROIName
    """,
    # Identifiers by which objects hang together: the dummy is a pseudonym, the same wherever the identifier stands.
    "P": """
    AccessionNumber PatientID StudyID ContainerIdentifier SpecimenIdentifier ClinicalTrialProtocolID ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID TrackingID
    """,
}  # fmt: skip
"""Table E.1-1, 2024 edition, without what is decided by VR (DA DT TM UI), by group (curves, overlays, retired text) or by an option."""

GONE_GROUPS = frozenset({0x0000, 0x0004, *range(0x2000, 0x2200, 0x10), 0x4000, 0x4008, 0xFFFA, 0xFFFC})
"""Messages, directories, print, retired results, signatures and padding; curves (50xx) and overlays (60xx) besides."""

DESCRIPTORS = """
AcquisitionProtocolDescription ContrastBolusAgent DerivationDescription PerformedProcedureStepDescription ProtocolName
RequestedContrastAgent RequestedProcedureDescription ROIDescription ROIName ROIObservationLabel SeriesDescription
StructureSetLabel StructureSetName StudyDescription SpecimenShortDescription TreatmentSite
AcquisitionDeviceProcessingDescription RequestedSeriesDescription AdmittingDiagnosesDescription RTPlanLabel RTPlanName
PyramidLabel PyramidDescription AnnotationGroupLabel AnnotationGroupDescription
"""
"""Clean Descriptors Option, E.3.6: of these, the words remain that say nothing about a person."""

DEVICE = """
CassetteID DetectorID DeviceDescription DeviceLabel DeviceSerialNumber DeviceSettingDescription GantryID GeneratorID
LensMake LensModel LensSerialNumber LensSpecification LongDeviceDescription PlateID SourceManufacturer
SourceSerialNumber TransducerIdentificationSequence UDISequence UniqueDeviceIdentifier XRayDetectorID XRayDetectorLabel
XRaySourceID StationName StationAETitle PerformedStationName PerformedStationAETitle ScheduledStationName
ScheduledStationAETitle TreatmentMachineName ManufacturerDeviceIdentifier DeviceUID ManufacturerDeviceClassUID
"""
"""Retain Device Identity Option, E.3.8."""

CHARACTERISTICS = "PatientAge PatientSex PatientSize PatientWeight PregnancyStatus SmokingStatus PatientSexNeutered"
"""Retain Patient Characteristics Option, E.3.7: codes and numbers only; free text (allergies, ethnic group) is not kept."""

TECHNICAL = """
AcquisitionMode AcquisitionProtocolName AlgorithmName AlgorithmParameters AlgorithmSource AlgorithmVersion
ApplicableSafetyStandardDescription ApplicationName ApplicationVersion AttenuationCorrectionMethod CardiacFramingType
ChannelLabel CodeMeaning CodeValue CodingSchemeDesignator CodingSchemeVersion CollimatorGridName ContrastBolusRoute
ConvolutionKernel DetectorManufacturerName DetectorManufacturerModelName DetectorMode DigitalImageFormatAcquired
DimensionDescriptionLabel EnergyWindowName EXIFVersion FilterMaterialUsedInGainCalibration FilterType FluenceModeID
FrameLabel GridAbsorbingMaterial GridSpacingMaterial HistogramExplanation ImageFilter ImagedNucleus InterventionDrugName
LongCodeValue LUTExplanation LUTLabel MIMETypeOfEncapsulatedDocument ListOfMIMETypes MaskOperationExplanation
Manufacturer ManufacturerModelName ManufacturerModelVersion ManufacturerRelatedModelGroup MappingResourceName
MetaboliteMapDescription ModalityLUTType MultiCoilConfiguration MultiCoilElementName MultiplexGroupLabel
OpticalPathDescription OpticalPathIdentifier OphthalmicImageTypeDescription OutputPower PaddleDescription
PatientOrientation PhosphorType PixelSpacingCalibrationDescription PlateType PositionReferenceIndicator
ProcessingFunction PulseSequenceName PVCRejection Radiopharmaceutical RadiopharmaceuticalRoute
ReceiveCoilManufacturerName ReceiveCoilName ReconstructionMethod ReferencedOpticalPathIdentifier RescaleType
ScatterCorrectionMethod SecondaryCaptureDeviceManufacturer SecondaryCaptureDeviceManufacturerModelName
SegmentAlgorithmName SegmentDescription SegmentLabel SequenceName SoftwareVersions StackID
TargetPositionReferenceIndicator TimeSource TransducerData TransmitCoilManufacturerName TransmitCoilName
TriggerSourceOrType TypeOfFilters ViewName WindowCenterWidthExplanation BeamName BlockName RadiationMachineName
RTImageLabel ToleranceTableLabel ApplicatorID BolusID MaterialID WedgeID CompensatorID FractionPattern
ContentDescription PatientSpeciesDescription StageName EventTimerNames AcquisitionDeviceProcessingCode
GraphicLayerDescription URNCodeValue LossyImageCompressionMethod ExtendedCodeValue
"""
"""Text that describes a technique, a device's model or a code. It stays, and goes through the rules for notes."""

BINARY = """
PixelData FloatPixelData DoubleFloatPixelData WaveformData WaveformPaddingValue ChannelMinimumValue ChannelMaximumValue
LUTData ICCProfile RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
AlphaPaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData SegmentedGreenPaletteColorLookupTableData
SegmentedBluePaletteColorLookupTableData SegmentedAlphaPaletteColorLookupTableData SmallestImagePixelValue
LargestImagePixelValue PixelPaddingValue VectorGridData ExtendedOffsetTable ExtendedOffsetTableLengths SpectroscopyData
BlendingLookupTableData CoefficientsSDVN CoefficientsSDHN CoefficientsSDDN
"""
"""Binary that is numbers. Every other value of VR OB, OW or UN goes."""

VERBATIM = """
CodeValue LongCodeValue URNCodeValue CodingSchemeDesignator CodingSchemeVersion SoftwareVersions MIMETypeOfEncapsulatedDocument
"""
"""Of those, what is a code or a version and looks like a number of a person."""

FREE_TEXT = "TextValue ContentDescription SegmentDescription"
"""Text that people write: kept as the rules for notes leave it."""

UID_KEPT = """
SOPClassUID TransferSyntaxUID MediaStorageSOPClassUID ReferencedSOPClassUID ReferencedSOPClassUIDInFile ContextUID
ContextGroupExtensionCreatorUID CodingSchemeUID MappingResourceUID ReferencedTransferSyntaxUIDInFile
AvailableTransferSyntaxUID OriginalSpecializedSOPClassUID RelatedGeneralSOPClassUID SOPClassesInStudy
SOPClassesSupported EncryptedContentTransferSyntaxUID MACCalculationTransferSyntaxUID PrivateInformationCreatorUID
"""
"""UIDs that name a kind or a vocabulary and no thing; kept where they are DICOM's own or a vocabulary's."""
UID_ROOTS = ("1.2.840.10008.", "2.16.840.1.113883.6.")
"""The roots of DICOM and of HL7's vocabularies (SNOMED, LOINC, UCUM …)."""

SAFE_PRIVATE = {
    ("GEMS_PARM_01", 0x0043, 0x39), ("GEMS_ACQU_01", 0x0019, 0x23), ("GEMS_ACQU_01", 0x0019, 0x24), ("GEMS_ACQU_01", 0x0019, 0x27),
    ("SIEMENS MR HEADER", 0x0019, 0x0C), ("SIEMENS MR HEADER", 0x0019, 0x0E), ("SIEMENS MR HEADER", 0x0019, 0x27),
    ("Philips Imaging DD 001", 0x2001, 0x03), ("Philips PET Private Group", 0x7053, 0x00), ("Philips PET Private Group", 0x7053, 0x09),
}  # fmt: skip
"""Retain Safe Private Option, E.3.10, Table E.3.10-1: of it, numbers only (b-values, gradients, PET scale factors, CT speed)."""

CODES = {
    "113100": "Basic Application Confidentiality Profile", "113103": "Clean Graphics Option", "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option", "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option", "113109": "Retain Device Identity Option", "113111": "Retain Safe Private Option",
}  # fmt: skip
"""CID 7050, PS3.16."""

BURNED_MODALITIES = frozenset({"US", "ES", "XC", "OT", "SC", "GM", "IVUS", "BDUS"})
STORAGE = "1.2.840.10008.5.1.4.1.1."
BURNED_CLASSES = ("7", "6", "3", "77.1.1", "77.1.4")
"""Kinds of image that usually have the patient's name in their pixels: secondary capture, ultrasound, endoscopy, photographs."""

NOT_TAKEN = {
    "1.2.840.10008.1.3.10": "a DICOM directory",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF", "1.2.840.10008.5.1.4.1.1.104.2": "an encapsulated CDA document",
    "1.2.840.10008.5.1.4.1.1.104.3": "an encapsulated STL model", "1.2.840.10008.5.1.4.1.1.104.4": "an encapsulated OBJ model",
    "1.2.840.10008.5.1.4.1.1.104.5": "an encapsulated MTL material", "1.2.840.10008.5.1.4.1.1.66": "raw data of a manufacturer",
    "1.2.840.10008.5.1.4.1.1.9.4.1": "a voice recording", "1.2.840.10008.5.1.4.1.1.9.4.2": "a voice recording",
}  # fmt: skip
"""Objects whose content this cannot look into."""


def table(device: bool, descriptors: bool, characteristics: bool) -> dict[str, str]:
    """Keyword → action: the basic profile under the chosen options."""
    actions = {keyword: action for action, keywords in BASIC.items() for keyword in keywords.split()}
    actions |= dict.fromkeys(CHARACTERISTICS.split(), "K" if characteristics else "X")
    if not characteristics:
        actions["PatientSex"] = "Z"
    if descriptors:
        actions |= dict.fromkeys(DESCRIPTORS.split(), "C")
    else:
        actions |= {"ProtocolName": "X", "AcquisitionDeviceProcessingDescription": "X"}
    if device:
        actions |= dict.fromkeys(DEVICE.split(), "K")
    return actions
